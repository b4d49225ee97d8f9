"""The training loss of a VQGAN."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, Key

from common.batch import PictureBatch
from common.pixels import to_floats
from vqgan import metrics, quantizer
from vqgan.adversarial import Context, Opponent
from vqgan.autoencoder import Autoencoder
from vqgan.config import LossConfig
from vqgan.layers import Params
from vqgan.losses import reconstruction_loss
from vqgan.perceptual import open_vgg

Means = dict[str, Array | Partial]
"""Metrics as means over rows (training/update/loss.py)."""
Loss = Callable[[Params, PictureBatch[Array], Key[Array, " b"], Context], tuple[Array, Means]]
"""(parameters, batch, a key for each picture, context) → (objective, metrics)."""


class ForwardPass(NamedTuple):
    """The autoencoder's results for a training batch."""

    quantized: quantizer.Quantized
    is_quantized: Bool[Array, ""] | bool
    """True if the decoder gets codes, False if it gets the latents."""
    features: Array
    """The input of the decoder's last convolution."""
    reconstruction: Array


def make_forward(autoencoder: Autoencoder, warmup_steps: int) -> Callable[..., ForwardPass]:
    """A function (parameters, pixels in −1..1, finished updates, [tokens]) → `ForwardPass`.

    In the first `warmup_steps` updates the decoder gets latents that are not quantised. With fsq
    they are quantised from the first update on. Given `tokens`, it gets their codes, which then
    have no gradient, and the encoder is not used.
    """
    is_grid = autoencoder.config.lookup == "fsq"

    def forward(
        params: Params, pixels: Array, step: Array, tokens: Int[Array, "b n"] | None = None
    ) -> ForwardPass:
        if tokens is not None:
            quantized = quantizer.fixed(autoencoder.codes(params), tokens)
            features = autoencoder.features(params, quantized.latents)
            return ForwardPass(quantized, True, features, autoencoder.project(params, features))
        latents = autoencoder.latents(params, pixels)
        quantized = quantizer.quantize(autoencoder.codes(params), latents)
        is_quantized = is_grid | (step >= warmup_steps)
        features = autoencoder.features(params, jnp.where(is_quantized, quantized.latents, latents))
        reconstruction = autoencoder.project(params, features)
        return ForwardPass(quantized, is_quantized, features, reconstruction)

    return forward


def make_loss(
    autoencoder: Autoencoder,
    config: LossConfig,
    warmup_steps: int,
    opponent: Opponent | None = None,
) -> Loss:
    """The loss, a function (params, batch, keys, context) → (loss, metrics). With an `opponent` it
    has the discriminator's term. The keys are not used.

    Raises:
        ValueError: model.lookup is classifier, which this loss cannot train; or
            loss.perceptual_weights is not a VGG-16.
    """
    lookup, codebook_size = autoencoder.config.lookup, autoencoder.config.codebook_size
    if lookup == "classifier":
        raise ValueError(
            "model.lookup classifier is for published weights only; train with nearest"
        )
    if config.perceptual:
        open_vgg(config.perceptual_weights)  # raises for a wrong file, before compilation
    forward = make_forward(autoencoder, warmup_steps)

    def loss(
        params: Params, batch: PictureBatch[Array], keys: Key[Array, " b"], context: Context
    ) -> tuple[Array, Means]:
        pixels = to_floats(batch["pixels"])
        result = forward(params, pixels, context.step, batch.get("image_tokens"))
        total = reconstruction_loss(pixels, result.reconstruction, config)
        means = _means(pixels, result, total, codebook_size)
        if lookup != "fsq":  # fsq has a fixed grid of codes, which needs no pull
            total += result.is_quantized * code_loss(result.quantized, config)
        if opponent is not None:
            is_on = context.step >= config.adversarial_from
            term = opponent.term(
                params, context.players, is_on, pixels, result.features, result.reconstruction
            )
            total += term.value
            means["train/adversarial_loss"] = term.loss
            means["train/adversarial_weight"] = term.weight
        return total, means

    return loss


def code_loss(quantized: quantizer.Quantized, config: LossConfig) -> Float[Array, ""]:
    """The weighted pull of codes to their latents, and of latents to their codes."""
    return config.codebook * quantized.codebook_loss + config.commitment * quantized.commitment_loss


def _means(
    pixels: Array, result: ForwardPass, reconstruction_loss: Array, codebook_size: int
) -> Means:
    """The metrics of the autoencoder. The perplexity is that of the mean shares of the codes over
    all micro-batches."""
    counts = quantizer.count(result.quantized.tokens, codebook_size)
    return {
        "train/reconstruction_loss": reconstruction_loss,
        "train/code_distance": result.quantized.commitment_loss,
        "train/perplexity": Partial(quantizer.perplexity, counts / counts.sum()),
        "train/psnr": metrics.psnr(pixels, result.reconstruction).mean(),
    }

"""The training loss of a VQGAN, and the care of its codebook between updates."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key, UInt8

from pixels import to_floats
from vqgan import metrics, quantizer
from vqgan.adversarial import Opponent
from vqgan.autoencoder import Autoencoder
from vqgan.config import LossConfig
from vqgan.layers import Params
from vqgan.losses import reconstruction_loss
from vqgan.perceptual import open_vgg

Batch = dict[str, Array]
Loss = Callable[[Params, Batch, Key[Array, " b"], Any], tuple[Array, dict[str, Array | Partial]]]
_CHUNK = 64  # pictures encoded at a time, for memory


class Painted(NamedTuple):
    """Pictures after the autoencoder in training."""

    quantized: quantizer.Quantized
    is_quantized: Any
    """True once the decoder sees codes."""
    features: Array
    """Input of the decoder's last convolution."""
    reconstruction: Array


def make_painting(autoencoder: Autoencoder, warmup_steps: int) -> Callable[..., Painted]:
    """A function of (parameters, pixels in −1..1, finished updates) that returns `Painted`.

    In the first `warmup_steps` updates nothing is quantised: the decoder sees the latents
    themselves. A grid of fsq exists from the first update on.
    """
    is_grid = autoencoder.config.lookup == "fsq"

    def paint(params: Params, pixels: Array, step: Array) -> Painted:
        latents = autoencoder.latents(params, pixels)
        quantized = quantizer.quantize(autoencoder.codes(params), latents)
        is_quantized = is_grid | (step >= warmup_steps)
        features = autoencoder.features(params, jnp.where(is_quantized, quantized.latents, latents))
        reconstruction = autoencoder.project(params, features)
        return Painted(quantized, is_quantized, features, reconstruction)

    return paint


def make_loss(
    autoencoder: Autoencoder,
    config: LossConfig,
    warmup_steps: int,
    opponent: Opponent | None = None,
) -> Loss:
    """The training loss of a batch {"pixels" uint8}, with a discriminator's term if there is an
    `opponent`.

    A grid of fsq has no codebook or commitment loss. The perplexity is a Partial: it is computed
    from the mean shares of the codes over all micro-batches. The loss uses no random numbers, so it
    ignores the training step's keys.

    Raises:
        ValueError: lookup by a classifier, which would not learn here; or a file of
            perceptual_weights that is no VGG-16.
    """
    is_grid = autoencoder.config.lookup == "fsq"
    if autoencoder.config.lookup == "classifier":
        raise ValueError(
            "model.lookup classifier is for published weights only; train with nearest"
        )
    if config.perceptual:
        open_vgg(config.perceptual_weights)  # a wrong file is named before anything is compiled
    paint = make_painting(autoencoder, warmup_steps)

    def loss(
        params: Params, batch: Batch, keys: Key[Array, " b"], context: Any
    ) -> tuple[Array, dict]:
        pixels = to_floats(batch["pixels"])
        quantized, is_quantized, features, reconstruction = paint(params, pixels, context.step)

        painted = reconstruction_loss(pixels, reconstruction, config)
        pull = (
            config.codebook * quantized.codebook_loss
            + config.commitment * quantized.commitment_loss
        )
        total = painted if is_grid else painted + is_quantized * pull
        counts = quantizer.count(quantized.tokens, autoencoder.config.codebook_size)
        told = {}
        if opponent is not None:
            is_on = context.step >= config.adversarial_from
            term = opponent.term(params, context.players, is_on, pixels, features, reconstruction)
            total += term.value
            told = {"train/adversarial_loss": term.loss, "train/adversarial_weight": term.weight}
        return total, {
            "train/reconstruction_loss": painted,
            "train/code_distance": quantized.commitment_loss,
            "train/perplexity": Partial(quantizer.perplexity, counts / counts.sum()),
            "train/psnr": metrics.psnr(pixels, reconstruction).mean(),
            **told,
        }

    return loss


def make_codebook_care(
    autoencoder: Autoencoder,
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Two compiled functions from (params, pixels uint8 [m, …], key) to a codebook: the first
    starts it by k-means over the latents of these pictures, the second renews the codes that none
    of them uses."""

    def gather(params: Params, pixels: UInt8[Array, "m y x 3"]) -> Float[Array, "k c"]:
        chunk = math.gcd(len(pixels), _CHUNK)
        chunks = pixels.reshape(-1, chunk, *pixels.shape[1:])
        latents = jax.lax.map(lambda some: autoencoder.latents(params, to_floats(some)), chunks)
        return latents.reshape(-1, autoencoder.config.code_dim)

    def start(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        latents = gather(params, pixels)
        return autoencoder.place(quantizer.kmeans(latents, len(params["codebook"]), key))

    def refresh(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        return quantizer.restart_unused(autoencoder.codes(params), gather(params, pixels), key)[0]

    return jax.jit(start), jax.jit(refresh)


def make_reconstruction(
    autoencoder: Autoencoder, is_quantized: bool = True
) -> Callable[..., dict[str, Any]]:
    """A compiled function from (params, pixels uint8) to what evaluation needs of each picture:
    tokens, reconstruction, psnr and ssim. Not quantised, the decoder sees the latents."""

    def reconstruct(params: Params, pixels: UInt8[Array, "b y x 3"]) -> dict[str, Array]:
        real = to_floats(pixels)
        tokens = autoencoder.encode(params, real)
        if is_quantized:
            painted = autoencoder.decode(params, tokens)
        else:
            painted = autoencoder.paint(params, autoencoder.latents(params, real))
        reconstruction = jnp.clip(painted, -1.0, 1.0)
        return {
            "tokens": tokens,
            "reconstruction": reconstruction,
            "psnr": metrics.psnr(real, reconstruction),
            "ssim": metrics.ssim(real, reconstruction),
        }

    return jax.jit(reconstruct)

"""The loss a VQGAN is trained on, and the care of its codebook between updates."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key, UInt8

from vqgan import metrics, quantizer
from vqgan.autoencoder import Autoencoder
from vqgan.config import LossConfig
from vqgan.layers import Params
from vqgan.losses import reconstruction_loss

Batch = dict[str, Array]
Loss = Callable[[Params, Batch, Key[Array, " b"], Any], tuple[Array, dict[str, Array | Partial]]]
_CHUNK = 64  # pictures encoded at a time, for memory


def to_float(pixels: UInt8[Array, "*b y x 3"]) -> Float[Array, "*b y x 3"]:
    """Bytes of a picture to −1..1."""
    return pixels.astype(jnp.float32) / 127.5 - 1


def make_loss(autoencoder: Autoencoder, config: LossConfig, warmup_steps: int) -> Loss:
    """The training loss of a batch {"pixels" uint8}.

    In the first `warmup_steps` updates nothing is quantised: the decoder sees the latents
    themselves. A grid of fsq is there from the first update on and pulls nothing. The perplexity is
    not of one micro-batch: a Partial, it is taken of the mean shares of the codes. Nothing is drawn
    at random: the keys that the training step gives are for other losses.

    Raises:
        ValueError: for a lookup by a classifier, which would not learn here.
    """
    is_grid = autoencoder.config.lookup == "fsq"
    if autoencoder.config.lookup == "classifier":
        raise ValueError("model.lookup classifier is only read from elsewhere; train with nearest")

    def loss(
        params: Params, batch: Batch, keys: Key[Array, " b"], moment: Any
    ) -> tuple[Array, dict]:
        pixels = to_float(batch["pixels"])
        latents = autoencoder.latents(params, pixels)
        quantized = quantizer.quantize(autoencoder.codes(params), latents)
        is_quantized = is_grid | (moment.step >= warmup_steps)
        seen = jnp.where(is_quantized, quantized.latents, latents)
        reconstruction = autoencoder.paint(params, seen)

        painted = reconstruction_loss(pixels, reconstruction, config)
        pull = (
            config.codebook * quantized.codebook_loss
            + config.commitment * quantized.commitment_loss
        )
        total = painted if is_grid else painted + is_quantized * pull
        counts = quantizer.count(quantized.tokens, autoencoder.config.codebook_size)
        return total, {
            "train/reconstruction_loss": painted,
            "train/code_distance": quantized.commitment_loss,
            "train/perplexity": Partial(quantizer.perplexity, counts / counts.sum()),
            "train/psnr": metrics.psnr(pixels, reconstruction).mean(),
        }

    return loss


def make_codebook_care(
    autoencoder: Autoencoder,
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Two compiled functions from (params, pixels uint8 [m, …], key) to a codebook: started by
    k-means over the latents of these pictures, or with the codes that none of them uses renewed."""

    def gather(params: Params, pixels: UInt8[Array, "m y x 3"]) -> Float[Array, "k c"]:
        chunk = math.gcd(len(pixels), _CHUNK)
        chunks = pixels.reshape(-1, chunk, *pixels.shape[1:])
        latents = jax.lax.map(lambda some: autoencoder.latents(params, to_float(some)), chunks)
        return latents.reshape(-1, autoencoder.config.code_dim)

    def start(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        latents = gather(params, pixels)
        return autoencoder.place(quantizer.kmeans(latents, len(params["codebook"]), key))

    def refresh(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        return quantizer.restart_unused(autoencoder.codes(params), gather(params, pixels), key)[0]

    return jax.jit(start), jax.jit(refresh)


def make_reconstruction(autoencoder: Autoencoder) -> Callable[..., dict[str, Any]]:
    """A compiled function from (params, pixels uint8) to what evaluation needs of each picture:
    tokens, reconstruction, psnr and ssim."""

    def reconstruct(params: Params, pixels: UInt8[Array, "b y x 3"]) -> dict[str, Array]:
        real = to_float(pixels)
        tokens = autoencoder.encode(params, real)
        reconstruction = jnp.clip(autoencoder.decode(params, tokens), -1.0, 1.0)
        return {
            "tokens": tokens,
            "reconstruction": reconstruction,
            "psnr": metrics.psnr(real, reconstruction),
            "ssim": metrics.ssim(real, reconstruction),
        }

    return jax.jit(reconstruct)

"""The renewal of a codebook between updates: by k-means, or of its unused codes only."""

import math
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key, UInt8

from common.pixels import to_floats
from vqgan import quantizer
from vqgan.autoencoder import Autoencoder
from vqgan.layers import Params

_CHUNK = 64  # pictures encoded at a time, for memory


def make_renewals(
    autoencoder: Autoencoder,
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Two compiled functions (params, pixels uint8 [m, …], key) → codebook. The first computes it
    by k-means over the pictures' latents; the second replaces the codes that no latent uses."""

    def latents_of(params: Params, pixels: UInt8[Array, "m y x 3"]) -> Float[Array, "k c"]:
        chunk = math.gcd(len(pixels), _CHUNK)
        chunks = pixels.reshape(-1, chunk, *pixels.shape[1:])
        latents = jax.lax.map(lambda some: autoencoder.latents(params, to_floats(some)), chunks)
        return latents.reshape(-1, autoencoder.config.code_dim)

    def by_kmeans(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        latents = latents_of(params, pixels)
        return autoencoder.place(quantizer.kmeans(latents, len(params["codebook"]), key))

    def of_unused(params: Params, pixels: Array, key: Key[Array, ""]) -> Float[Array, "k c"]:
        codebook, latents = autoencoder.codes(params), latents_of(params, pixels)
        return quantizer.restart_unused(codebook, latents, key)

    return jax.jit(by_kmeans), jax.jit(of_unused)

"""The codebook: nearest codes, straight-through gradients, k-means, restart of unused codes.

Straight-through estimator and losses: van den Oord et al. 2017, arXiv:1711.00937. Codes of unit
length: Yu et al. 2021, arXiv:2110.04627. k-means and restarts: Łańcucki et al. 2020,
arXiv:2005.08520, Dhariwal et al. 2020, arXiv:2005.00341.

All functions are pure, and no state is kept between updates, so a resumed run needs only its
parameters.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from model.layers import first_largest


class Quantized(NamedTuple):
    """Quantised latents, and their losses."""

    latents: Float[Array, "b y x c"]
    """The codes; their gradient goes to the latents that they replace (straight through)."""
    tokens: Int[Array, "b y x"]
    codebook_loss: Float[Array, ""]
    """Pulls codes to their latents."""
    commitment_loss: Float[Array, ""]
    """Pulls latents to their codes."""


ITERATIONS = 10  # of k-means
_MARGIN = 1e-3  # without it the outer levels would need infinite latents


def normalize(latents: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """The latents, scaled to unit length."""
    return latents * jax.lax.rsqrt(jnp.square(latents).sum(-1, keepdims=True) + 1e-12)


def bound(latents: Float[Array, "*b c"], levels: tuple[int, ...]) -> Float[Array, "*b c"]:
    """The latents, squashed by tanh into the box of `fsq_grid`: −1..1, or one step less at the
    upper end for an even number of levels."""
    count = jnp.broadcast_to(jnp.array(levels, latents.dtype), latents.shape)
    reach = (count - 1) * (1 + _MARGIN) / 2  # in steps, just beyond the outer levels
    middle = jnp.where(count % 2 == 0, 0.5, 0.0)  # so that 0 is a level for even counts, too
    steps = jnp.tanh(latents + jnp.arctanh(middle / reach)) * reach - middle
    return steps / (count // 2)


def fsq_grid(levels: tuple[int, ...]) -> Float[Array, "k c"]:
    """All points of the grid; the last coordinate changes fastest."""
    places = np.stack(np.meshgrid(*map(np.arange, levels), indexing="ij"), axis=-1)
    half = np.array(levels) // 2
    return jnp.asarray((places.reshape(-1, len(levels)) - half) / half, jnp.float32)


def nearest(codes: Float[Array, "k c"], latents: Float[Array, "*b c"]) -> Int[Array, "*b"]:
    """The index of the code at the smallest Euclidean distance from each latent."""
    return first_largest(_nearness(codes, latents)).reshape(latents.shape[:-1])


def nearest_few(
    codes: Float[Array, "k c"], latents: Float[Array, "*b c"], count: int
) -> Int[Array, "*b n"]:
    """The indices of the `count` nearest codes of each latent, the nearest one first."""
    indices = jax.lax.top_k(_nearness(codes, latents), count)[1]
    # Without the barrier, XLA on CPU sorts all codes if the caller takes a slice: 45 ms a picture.
    return jax.lax.optimization_barrier(indices).reshape(*latents.shape[:-1], count)


def _nearness(codes: Float[Array, "k c"], latents: Float[Array, "*b c"]) -> Float[Array, "m k"]:
    """(squared length of the latent − its squared distance from the code) / 2, [latent, code]."""
    half_square = 0.5 * jnp.square(codes).sum(-1)
    return latents.reshape(-1, latents.shape[-1]) @ codes.T - half_square[None]


def quantize(codes: Float[Array, "k c"], latents: Float[Array, "b y x c"]) -> Quantized:
    """Each latent replaced by its nearest code, with straight-through gradients."""
    fixed = jax.lax.stop_gradient
    tokens = nearest(fixed(codes), fixed(latents))
    chosen = codes[tokens]
    return Quantized(
        latents=latents + fixed(chosen - latents),
        tokens=tokens,
        codebook_loss=squared_distance(chosen, fixed(latents)).mean(),
        commitment_loss=squared_distance(latents, fixed(chosen)).mean(),
    )


def fixed(codes: Float[Array, "k c"], tokens: Int[Array, "b n"]) -> Quantized:
    """The codes of tokens that are given, without gradients or losses."""
    side, none = math.isqrt(tokens.shape[1]), jnp.zeros(())
    square = tokens.reshape(-1, side, side)
    return Quantized(jax.lax.stop_gradient(codes)[square], square, none, none)


def squared_distance(a: Float[Array, "*b c"], b: Float[Array, "*#b c"]) -> Float[Array, "*b"]:
    """The squared Euclidean distance over the last axis."""
    return jnp.square(a - b).sum(-1)


def count(tokens: Int[Array, "*b"], codebook_size: int) -> Int[Array, " k"]:
    """The number of occurrences of each code."""
    return jnp.zeros((codebook_size,), jnp.int32).at[tokens.reshape(-1)].add(1)


def usage(counts: Int[Array, " k"]) -> Float[Array, ""]:
    """The share of codes that occur at all."""
    return (counts > 0).mean()


def perplexity(counts: Num[Array, " k"]) -> Float[Array, ""]:
    """The number of equally frequent codes with the same entropy as these counts or shares."""
    share = counts / counts.sum()
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum())


def kmeans(
    latents: Float[Array, "m c"], codebook_size: int, key: Key[Array, ""]
) -> Float[Array, "k c"]:
    """Codes by k-means: the means of clusters of latents.

    Seeds are drawn with probability ∝ squared distance to the earlier seeds (k-means++; Arthur and
    Vassilvitskii 2007). With uniform seeds, the background would take most of the codebook, because
    it is most of a drawing.
    """
    if len(latents) < codebook_size:
        raise ValueError(f"k-means of {codebook_size} codes needs as many latents: {len(latents)}")
    codes = _draw_seeds(latents, codebook_size, key)
    return jax.lax.fori_loop(0, ITERATIONS, lambda _, codes: _move(codes, latents), codes)


def _draw_seeds(
    latents: Float[Array, "m c"], codebook_size: int, key: Key[Array, ""]
) -> Float[Array, "k c"]:
    def draw(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, distance = carry
        chosen = jax.random.categorical(jax.random.fold_in(key, i), jnp.log(distance))
        distance = jnp.minimum(distance, squared_distance(latents, latents[chosen][None]))
        return seeds.at[i].set(latents[chosen]), distance

    seeds = jnp.zeros((codebook_size, latents.shape[-1]), latents.dtype)
    distance = squared_distance(latents, latents.mean(0, keepdims=True))
    return jax.lax.fori_loop(0, codebook_size, draw, (seeds, distance))[0]


def _move(codes: Float[Array, "k c"], latents: Float[Array, "m c"]) -> Float[Array, "k c"]:
    """The codes after one iteration: each at the mean of its latents; a code without latents
    stays."""
    tokens = nearest(codes, latents)
    counts = count(tokens, len(codes))[:, None]
    sums = jnp.zeros_like(codes).at[tokens].add(latents)
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), codes)


def restart_unused(
    codes: Float[Array, "k c"], latents: Float[Array, "m c"], key: Key[Array, ""]
) -> Float[Array, "k c"]:
    """The codes with unused ones replaced by latents.

    The new codes are distinct latents, drawn with probability ∝ squared distance to their code
    (Gumbel top-k), as the seeds of k-means are. Used codes stay unchanged.
    """
    tokens = nearest(codes, latents)
    unused = count(tokens, len(codes)) == 0
    distance = squared_distance(latents, codes[tokens])
    lots = jnp.log(distance) + jax.random.gumbel(key, distance.shape)
    places = latents[jax.lax.top_k(lots, len(codes))[1]]
    return jnp.where(unused[:, None], places, codes)

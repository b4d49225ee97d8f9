"""Soft targets: a share of each image token's target goes to the codes nearest to it, which the
decoder converts to nearly the same pixels.

mc-BEiT (Li et al. 2022, arXiv:2203.15371) has soft targets for masked patches; here they are for
tokens written one by one, and come from the codebook alone.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

COUNT = 8
"""Codes among which the share is spread, at most."""
BLOCK = 1024
"""Codes whose distances to all others are computed at a time: 16 MB for a codebook of 4,096, 64 MB
for one of 16,384."""


class Targets(NamedTuple):
    """For each label, the classes that are its target, and the share of each. Shares of a label sum
    to 1."""

    classes: Int[Array, "k n"]
    shares: Float[Array, "k n"]


def soft_targets(
    codebook: Float[Array, "k c"], share: float, used: Bool[np.ndarray, " k"] | None = None
) -> Targets:
    """Each code keeps 1 − `share` of its target; its nearest codes get the rest.

    A neighbour at squared distance d² gets a weight of exp(−2 d² / m), where m is the mean of d²
    over the neighbours of all codes. So the weights do not depend on the codebook's scale. `used`
    is True for each code that occurs in the data; None = not known.
    """
    are_usable = _are_usable(len(codebook), used)
    count = min(COUNT, int(are_usable.sum()) - 1)
    if count < 1:  # no code has a neighbour
        return Targets(jnp.arange(len(codebook))[:, None], jnp.ones((len(codebook), 1)))
    codebook = jnp.asarray(codebook, jnp.float32)
    codebook -= codebook.mean(0, keepdims=True)  # the squares below would cancel far from zero
    usable = jnp.asarray(are_usable)
    blocks = [
        _nearest(codebook, jnp.arange(start, min(start + BLOCK, len(codebook))), usable, count)
        for start in range(0, len(codebook), BLOCK)
    ]
    classes, squares = (jnp.concatenate(parts) for parts in zip(*blocks, strict=True))
    mean = squares[np.flatnonzero(are_usable)].mean()
    weights = jax.nn.softmax(-2 * squares / jnp.maximum(mean, 1e-12), axis=-1)
    codes = jnp.arange(len(codebook))[:, None]
    shares = jnp.concatenate([jnp.full((len(codebook), 1), 1 - share), share * weights], axis=1)
    return Targets(jnp.concatenate([codes, classes], axis=1), shares)


def _are_usable(size: int, used: Bool[np.ndarray, " k"] | None) -> Bool[np.ndarray, " k"]:
    """True for each code that may be a neighbour. If few codes are used, the others are dead: the
    decoder has never learnt to use them. If half of them are used, the VQGAN has no dead codes,
    and the others are only rare in these data."""
    if used is None or 2 * used.sum() >= size:
        return np.ones(size, bool)
    return used


@partial(jax.jit, static_argnames="count")
def _nearest(
    codebook: Float[Array, "k c"],
    rows: Int[Array, " b"],
    are_usable: Bool[Array, " k"],
    count: int,
) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """(for each of these codes, the `count` nearest other codes that are usable; their squared
    distances)."""
    norms = jnp.square(codebook).sum(-1)
    products = jnp.matmul(codebook[rows], codebook.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.where(are_usable[None], norms[rows, None] + norms[None] - 2 * products, jnp.inf)
    squares = squares.at[jnp.arange(len(rows)), rows].set(jnp.inf)
    negative, classes = jax.lax.top_k(-squares, count)
    return classes, jnp.maximum(-negative, 0)

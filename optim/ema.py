"""Exponential moving average of the weights. Polyak & Juditsky 1992."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree


def init_ema(params: PyTree) -> PyTree:
    """The average before the first update: a float32 copy of the weights."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)


def make_ema(decay: float) -> Callable[[PyTree, PyTree, PyTree, Array], PyTree] | None:
    """`update_ema` with this decay, for the training step; None for 0."""
    return (lambda ema, params, _, step: update_ema(ema, params, decay, step)) if decay else None


def update_ema(ema: PyTree, params: PyTree, decay: float, step: int | Int[Array, ""]) -> PyTree:
    """The average after update `step`, counted from 0, which gave the weights `params`.

    The decay is at most (1 + step) / (10 + step), so that the average soon forgets the initial
    weights.
    """
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, p: mean + (1 - keep) * (p - mean), ema, params)

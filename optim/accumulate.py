"""Gradient accumulation: the mean over micro-batches, by a scan inside the step."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

B = TypeVar("B")
"""A tree of arrays: a batch."""
T = TypeVar("T")
"""A tree of arrays: a gradient and its metrics."""
K = TypeVar("K")
"""A tree of arrays: what is kept of them."""


def accumulate_parts(
    gradient: Callable[[B], T], batch: B, micro_batches: int, keep: Callable[[T], K]
) -> tuple[T, K]:
    """(the result of `accumulate`, `keep(gradient)` of every micro-batch, stacked)."""
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total: T, part: B) -> tuple[T, K]:
        gradients = gradient(part)
        return jax.tree.map(jnp.add, total, gradients), keep(gradients)

    total, stacked = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / micro_batches, total), stacked


def accumulate(gradient: Callable[[B], T], batch: B, micro_batches: int) -> T:
    """The mean of `gradient(micro_batch)`, any tree of arrays, over equal parts of the batch.

    Activations of one micro-batch are in memory at a time. Micro-batch i has the rows i,
    i + micro_batches, …, so that each device holds an equal part of it if rows are sharded.
    """
    if micro_batches == 1:
        return gradient(batch)
    return accumulate_parts(gradient, batch, micro_batches, lambda gradients: ())[0]

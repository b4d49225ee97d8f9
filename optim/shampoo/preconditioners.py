"""The statistics of gradients and the preconditioners computed from them, block by block."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from common.trees import is_stacked
from optim.config import ShampooConfig
from optim.paths import matches
from optim.shampoo.blocks import Shape, join_blocks, merge_shape, split_blocks
from optim.shampoo.grafts import moving_average
from optim.shampoo.roots import inverse_root
from optim.spread import Spread, spread_jobs

# Indexed by shape of block, then by dimension; each entry is [blocks, n, n].
Matrices = tuple[tuple[Float[Array, "_ _ _"], ...], ...]


@dataclass(frozen=True)
class Plan:
    """How Shampoo treats one parameter: as `layers` tensors of one shape, split into blocks."""

    layers: int
    shape: Shape  # of one layer in the model
    merged: Shape  # the same with dimensions merged; this is split into blocks
    preconditioned: int  # number of leading dimensions with a preconditioner; 0 = none
    exponent: int  # p of the inverse p-th root

    def split_layers(self, x: Array) -> Float[Array, "layers ..."]:
        """x as [layers, *shape]."""
        return x.reshape(self.layers, *self.shape)


def make_plan(config: ShampooConfig, by_layer: bool, name: str, leaf: Array) -> Plan:
    """The plan for the parameter `leaf` at path `name`. `by_layer` treats a stack of layers layer
    by layer."""
    stacked = by_layer and is_stacked(name)
    layers, shape = (len(leaf), leaf.shape[1:]) if stacked else (1, leaf.shape)
    merged = merge_shape(shape, config.merge_dims) if config.merge_dims else shape
    preconditioned = len(merged) - (config.one_sided and len(merged) > 1)
    is_excluded = (
        len(shape) < max(config.min_rank, 1)
        or max(shape) > config.max_dim
        or matches(name, config.exclude)
    )
    preconditioned = 0 if is_excluded else preconditioned
    return Plan(layers, shape, merged, preconditioned, config.exponent or 2 * preconditioned)


def identities(config: ShampooConfig, plan: Plan, scale: float) -> Matrices:
    """`scale` times the identity matrix, for each block and preconditioned dimension."""
    if not plan.preconditioned:
        return ()
    pieces = split_blocks(jnp.zeros((plan.layers, *plan.merged), jnp.float32), config.block_size)
    return tuple(
        tuple(
            jnp.broadcast_to(scale * jnp.eye(size, dtype=jnp.float32), (len(piece), size, size))
            for size in piece.shape[1 : 1 + plan.preconditioned]
        )
        for piece in pieces
    )


def update_statistics(
    config: ShampooConfig, beta: float, plan: Plan, gradient: Array, statistics: Matrices
) -> Matrices:
    """The moving averages of G Gᵀ along each preconditioned dimension (sums for beta = 1)."""
    if not plan.preconditioned:
        return ()
    pieces = split_blocks(gradient.reshape(plan.layers, *plan.merged), config.block_size)
    return tuple(
        tuple(moving_average(old, _gram(piece, axis), beta) for axis, old in enumerate(of_kind))
        for piece, of_kind in zip(pieces, statistics, strict=True)
    )


def _gram(piece: Float[Array, "jobs ..."], axis: int) -> Float[Array, "jobs n n"]:
    others = [d for d in range(piece.ndim - 1) if d != axis]
    return jax.vmap(lambda block: jnp.tensordot(block, block, (others, others)))(piece)


def precondition(
    config: ShampooConfig, plan: Plan, gradient: Array, preconditioners: Matrices
) -> Float[Array, "layers ..."]:
    """The gradient, multiplied along each dimension by its preconditioner where there is one."""
    pieces = split_blocks(gradient.reshape(plan.layers, *plan.merged), config.block_size)
    done = []
    for piece, of_kind in zip(pieces, preconditioners, strict=True):
        for axis, matrix in enumerate(of_kind):
            piece = jax.vmap(partial(multiply, axis=axis))(matrix, piece)
        done.append(piece)
    return join_blocks(done, plan.merged, config.block_size).reshape(plan.layers, *plan.shape)


def multiply(matrix: Float[Array, "n n"], x: Array, axis: int) -> Array:
    """matrixᵀ times x along `axis`."""
    return jnp.moveaxis(jnp.tensordot(matrix, x, (0, axis)), 0, axis)


def compute_roots(
    config: ShampooConfig,
    jobs: list[tuple[int, Array, Array]],
    spread: Spread,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> list[Array]:
    """The new preconditioners of each job (exponent, statistics, old preconditioners).

    Matrices of one size and exponent form one batch, which the devices share. A root whose error is
    not below `failure_threshold` is dropped, and the old preconditioner is kept. Roots are computed
    in `dtype`.
    """
    batches: dict[tuple[int, int], list[int]] = {}
    for i, (exponent, statistics, _) in enumerate(jobs):
        batches.setdefault((exponent, statistics.shape[-1]), []).append(i)
    root_of: dict[int, Array] = {}
    for (exponent, _), members in batches.items():
        statistics, before = (jnp.concatenate([jobs[i][part] for i in members]) for part in (1, 2))
        root = partial(
            inverse_root, p=exponent, ridge=config.matrix_epsilon, relative=config.relative_epsilon
        )
        roots, errors = spread_jobs(root, statistics.astype(dtype), spread)
        good = (errors < config.failure_threshold)[:, None, None]  # an error of NaN is not good
        roots = jnp.where(good, roots.astype(before.dtype), before)
        ends = np.cumsum([len(jobs[i][1]) for i in members])
        root_of |= dict(zip(members, jnp.split(roots, ends[:-1]), strict=True))
    return [root_of[i] for i in range(len(jobs))]

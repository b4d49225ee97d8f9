"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner. Vyas et al. 2024, arXiv:2409.11321.

Details follow the authors' code. The first gradient only initialises the statistics; its update is
0. Columns of the basis are sorted by descending eigenvalue, and the squares are permuted with them.
An update uses the basis from before its own gradient.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from common.trees import map_named
from optim.config import ShampooConfig, SoapConfig
from optim.shampoo.blocks import join_blocks, split_blocks
from optim.shampoo.preconditioners import (
    Matrices,
    Plan,
    identities,
    make_plan,
    multiply,
    update_statistics,
)
from optim.spread import LOCAL, Spread, spread_jobs


class SoapState(NamedTuple):
    """Trees like the parameters; a leaf of `statistics` and `bases` is a tuple of tuples of
    matrices."""

    step: Int[Array, ""]
    """Number of gradients seen; the first gave no update."""
    statistics: PyTree
    bases: PyTree
    squares: PyTree
    """Second moments, in the eigenbasis."""
    momentum: PyTree
    """First moments, not rotated."""


@dataclass(frozen=True)
class Soap:
    """`init` and `update` of the optax transformation that returns SOAP's direction."""

    config: SoapConfig
    beta1: float = 0.95
    beta2: float = 0.95
    epsilon: float = 1e-8
    spread: Spread = LOCAL

    def init(self, params: PyTree) -> SoapState:
        plans, zeros = self._plans(params), partial(jax.tree.map, jnp.zeros_like)

        def make(scale: float) -> PyTree:
            return jax.tree.map(lambda plan: identities(self._shape, plan, scale), plans)

        return SoapState(jnp.int32(0), make(0.0), make(1.0), zeros(params), zeros(params))

    def update(
        self, grads: PyTree, state: SoapState, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        plans = self._plans(grads)
        whole = jax.tree.map(self._whole, plans, grads)
        step, is_first = state.step, state.step == 0
        turn = partial(jax.tree.map, partial(_turn, self._shape, self.spread), plans)
        rotated = turn(whole, state.bases)
        squares = jax.tree.map(
            lambda s, g: self.beta2 * s + (1 - self.beta2) * jnp.square(g), state.squares, rotated
        )
        momentum = jax.tree.map(
            lambda m, g: self.beta1 * m + (1 - self.beta1) * g, state.momentum, grads
        )
        factor = jnp.sqrt(1 - self.beta2**step) / (1 - self.beta1**step)
        ratio = jax.tree.map(
            lambda m, s: factor * m / (jnp.sqrt(s) + self.epsilon),
            turn(momentum, state.bases),
            squares,
        )
        direction = turn(ratio, _transposed(state.bases))
        none = partial(jax.tree.map, lambda new, old: jnp.where(is_first, old, new))
        direction = jax.tree.map(lambda u: jnp.where(is_first, 0.0, u), direction)
        momentum, squares = none(momentum, state.momentum), none(squares, state.squares)
        statistics = jax.tree.map(
            partial(update_statistics, self._shape, self.beta2), plans, whole, state.statistics
        )
        bases, squares = self._turn_bases(
            plans, statistics, (state.bases, squares), is_first, step % self.config.basis_every == 0
        )
        return direction, SoapState(step + 1, statistics, bases, squares, momentum)

    def _turn_bases(
        self, plans: PyTree, statistics: PyTree, before: PyTree, is_first: Array, is_due: Array
    ) -> tuple[PyTree, PyTree]:
        """The new bases, and the second moments permuted to match. The first update computes
        eigenvectors; a later one that is due takes one step of power iteration; any other returns
        `before`."""

        def turned(job: PyTree) -> tuple[PyTree, PyTree]:
            leaves, structure = jax.tree.flatten(statistics)
            results = _in_batches(job, leaves, jax.tree.leaves(before[0]), self.spread)
            parts = zip(*results, strict=True)
            bases, orders = (jax.tree.unflatten(structure, part) for part in parts)
            squares = jax.tree.map(self._whole, plans, before[1])
            return bases, jax.tree.map(partial(_permute, self._shape), plans, squares, orders)

        def refreshed() -> tuple[PyTree, PyTree]:
            eigenvectors, power_step = partial(turned, _eigenvectors), partial(turned, _power_step)
            return jax.lax.cond(is_first, eigenvectors, power_step)

        if not jax.tree.leaves(statistics):
            return before
        return jax.lax.cond(is_first | is_due, refreshed, lambda: before)

    def _whole(self, plan: Plan, x: Array) -> Array:
        return self.spread.whole(x) if plan.preconditioned else x

    @property
    def _shape(self) -> ShampooConfig:
        """The settings of Shampoo's blocks."""
        config = self.config
        return ShampooConfig(
            block_size=config.block_size,
            merge_dims=0,
            max_dim=config.max_dim,
            min_rank=config.min_rank,
            exclude=config.exclude,
        )

    def _plans(self, params: PyTree) -> PyTree:
        return map_named(partial(make_plan, self._shape, True), params)


def soap(config: SoapConfig, *args: Any, **options: Any) -> optax.GradientTransformation:
    """An optax transformation that returns the direction of SOAP's update. The arguments are the
    fields of `Soap`."""
    rule = Soap(config, *args, **options)
    return optax.GradientTransformation(rule.init, rule.update)


def _turn(config: ShampooConfig, spread: Spread, plan: Plan, x: Array, bases: Matrices) -> Array:
    """Qᵀ x along each dimension: the coefficients of x in the bases."""
    if not plan.preconditioned:
        return x
    x, done = spread.whole(x), []
    for piece, of_kind in zip(_pieces(config, plan, x), bases, strict=True):
        for axis, basis in enumerate(of_kind):
            piece = jax.vmap(partial(multiply, axis=axis))(basis, piece)
        done.append(piece)
    return _joined(config, plan, done, x)


def _transposed(bases: PyTree) -> PyTree:
    return jax.tree.map(lambda basis: basis.swapaxes(-1, -2), bases)


def _permute(config: ShampooConfig, plan: Plan, x: Array, orders: PyTree) -> Array:
    """x with its entries permuted along each dimension."""
    if not plan.preconditioned:
        return x
    done = []
    for piece, of_kind in zip(_pieces(config, plan, x), orders, strict=True):
        for axis, order in enumerate(of_kind):
            piece = jax.vmap(partial(jnp.take, axis=axis))(piece, order)
        done.append(piece)
    return _joined(config, plan, done, x)


def _pieces(config: ShampooConfig, plan: Plan, x: Array) -> list[Array]:
    return split_blocks(x.reshape(plan.layers, *plan.merged), config.block_size)


def _joined(config: ShampooConfig, plan: Plan, pieces: list[Array], like: Array) -> Array:
    return join_blocks(pieces, plan.merged, config.block_size).reshape(like.shape)


def _eigenvectors(job: Float[Array, "n 2*n"]) -> tuple[Array, Array]:
    """The eigenvectors of the statistics (left half of `job`) by descending eigenvalue, and the
    identity permutation."""
    size = len(job)
    _, vectors = jnp.linalg.eigh(job[:, :size])
    return vectors[:, ::-1], jnp.arange(size)


def _power_step(job: Float[Array, "n 2*n"]) -> tuple[Array, Array]:
    """The basis (right half of `job`) after one step of power iteration, and the permutation of its
    columns. Columns are first sorted by descending eigenvalue, as the old basis estimates it."""
    size = len(job)
    statistics, basis = job[:, :size], job[:, size:]
    product = jnp.matmul(statistics, basis, precision=jax.lax.Precision.HIGHEST)
    order = jnp.argsort(-(basis * product).sum(0))
    return jnp.linalg.qr(product[:, order])[0], order


def _in_batches(
    job: PyTree, statistics: list[Array], bases: list[Array], spread: Spread
) -> list[tuple[Array, Array]]:
    """The result of `job` for each pair of stacks of matrices. Matrices of one size are one batch,
    dealt to the devices."""
    sizes: dict[int, list[int]] = {}
    for place, stack in enumerate(statistics):
        sizes.setdefault(stack.shape[-1], []).append(place)
    result_of: dict[int, tuple[Array, Array]] = {}
    for members in sizes.values():
        both = [jnp.concatenate([statistics[i], bases[i]], -1) for i in members]
        results = spread_jobs(job, jnp.concatenate(both), spread)
        ends = np.cumsum([len(statistics[i]) for i in members])[:-1]
        parts = (jnp.split(result, ends) for result in results)
        result_of |= dict(zip(members, zip(*parts, strict=True), strict=True))
    return [result_of[place] for place in range(len(statistics))]

"""Distributed Shampoo. Gupta et al. 2018, arXiv:1802.09568; Anil et al. 2020, arXiv:2002.09018."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Int, PyTree

from common.trees import map_named
from optim.config import ShampooConfig
from optim.shampoo.grafts import GRAFTS, TINY, WITHOUT_SQUARES, Scale
from optim.shampoo.preconditioners import (
    Plan,
    compute_roots,
    identities,
    make_plan,
    precondition,
    update_statistics,
)
from optim.shampoo.quantized import dequantize, quantize
from optim.spread import LOCAL, Spread

STACKS = ("statistics", "preconditioners")
"""Fields of the state whose arrays are stacks of square matrices and can be sharded."""


class ShampooState(NamedTuple):
    """Trees with the structure of the parameters. A leaf of `statistics` and `preconditioners` is a
    tuple of tuples of matrices."""

    step: Int[Array, ""]
    statistics: PyTree
    preconditioners: PyTree
    squares: PyTree
    momentum: PyTree
    graft_momentum: PyTree


@dataclass(frozen=True)
class Shampoo:
    """`init` and `update` of the optax transformation for Shampoo. It returns the direction of the
    update: the momentum of preconditioned gradients."""

    config: ShampooConfig
    beta1: float = 0.9
    beta2: float = 0.999
    nesterov: bool = False
    spread: Spread = LOCAL
    weight_decay: float = 0.0
    """This times the parameter is added to the preconditioned gradient and to the graft, before the
    momentum."""
    graft_rate: Callable[[Array], Array] | None = None
    """Factor of the graft's update, as a function of the number of finished updates."""
    by_layer: bool = True
    """Treat a parameter under `run<digits>` as a stack: each of its layers is a separate tensor."""
    root_dtype: DTypeLike = jnp.float32
    """Data type in which roots are computed. They are stored in float32."""

    def init(self, params: PyTree) -> ShampooState:
        config, plans = self.config, self._plans(params)
        zeros = partial(jax.tree.map, jnp.zeros_like)
        return ShampooState(
            step=jnp.int32(0),
            statistics=jax.tree.map(lambda p: identities(config, p, config.matrix_epsilon), plans),
            preconditioners=jax.tree.map(lambda p: identities(config, p, 1.0), plans),
            squares=() if config.graft in WITHOUT_SQUARES else zeros(params),
            momentum=self._pack(plans, zeros(params)),
            graft_momentum=self._pack(plans, zeros(params)),
        )

    def update(
        self, grads: PyTree, state: ShampooState, params: PyTree = None
    ) -> tuple[PyTree, ShampooState]:
        grafted, squares = _grafts(
            self.config, self.beta2, self._plans(grads), grads, state.squares
        )
        if self.graft_rate is not None:
            rate = self.graft_rate(state.step)
            grafted = jax.tree.map(lambda u: u * rate, grafted)
        shaped, statistics, preconditioners = self._precondition(grads, grafted, state)
        if self.weight_decay:
            shaped, grafted = (
                jax.tree.map(lambda u, p: u + self.weight_decay * p, tree, params)
                for tree in (shaped, grafted)
            )
        direction, momentum, graft_momentum = self._add_momentum(shaped, grafted, state)
        return direction, ShampooState(
            state.step + 1, statistics, preconditioners, squares, momentum, graft_momentum
        )

    def _precondition(
        self, grads: PyTree, grafted: PyTree, state: ShampooState
    ) -> tuple[PyTree, PyTree, PyTree]:
        """The preconditioned gradients with the graft's norm, the new statistics and the new
        preconditioners."""
        config, plans, before = self.config, self._plans(grads), state.preconditioners
        grads = jax.tree.map(
            lambda p, g: self.spread.whole(g) if p.preconditioned else g, plans, grads
        )
        statistics = _when(
            state.step % config.statistics_every == 0,
            lambda: jax.tree.map(
                partial(update_statistics, config, self.beta2), plans, grads, state.statistics
            ),
            state.statistics,
        )
        preconditioners = _when(
            state.step % config.roots_every == 0,
            lambda: self._roots(plans, statistics, before),
            before,
        )
        used = before if config.delayed_roots else preconditioners
        shaped = jax.tree.map(partial(_shape, config), plans, grads, grafted, used)
        return shaped, statistics, preconditioners

    def _roots(self, plans: PyTree, statistics: PyTree, before: PyTree) -> PyTree:
        exponents = jax.tree.map(
            lambda plan, of_leaf: jax.tree.map(lambda _: plan.exponent, of_leaf), plans, statistics
        )
        leaves, structure = jax.tree.flatten(statistics)
        jobs = list(zip(jax.tree.leaves(exponents), leaves, jax.tree.leaves(before), strict=True))
        roots = compute_roots(self.config, jobs, self.spread, self.root_dtype)
        return jax.tree.unflatten(structure, roots)

    def _add_momentum(
        self, shaped: PyTree, grafted: PyTree, state: ShampooState
    ) -> tuple[PyTree, PyTree, PyTree]:
        """The direction and the two momenta, Shampoo's and the graft's. The direction follows the
        graft's momentum before `start_step` and Shampoo's from then on."""
        plans = self._plans(shaped)
        weight = 1 - self.beta1 if self.config.moving_average else 1.0
        momentum, graft_momentum = (
            jax.tree.map(
                lambda u, m: dequantize(m).reshape(u.shape) * self.beta1 + weight * u, new, old
            )
            for new, old in ((shaped, state.momentum), (grafted, state.graft_momentum))
        )
        started = state.step >= self.config.start_step
        choose = partial(jax.tree.map, lambda s, u: jnp.where(started, s, u))
        direction = choose(momentum, graft_momentum)
        if self.nesterov:
            latest = choose(shaped, grafted)
            direction = jax.tree.map(lambda m, u: weight * u + self.beta1 * m, direction, latest)
        return direction, self._pack(plans, momentum), self._pack(plans, graft_momentum)

    def _pack(self, plans: PyTree, momentum: PyTree) -> PyTree:
        """The momentum in its stored form: quantized if `quantize_momentum` is set, except for
        tensors of one dimension."""
        if not self.config.quantize_momentum:
            return momentum
        return jax.tree.map(
            lambda plan, m: quantize(plan.split_layers(m)) if len(plan.shape) > 1 else m,
            plans,
            momentum,
        )

    def _plans(self, params: PyTree) -> PyTree:
        return map_named(partial(make_plan, self.config, self.by_layer), params)


def shampoo(config: ShampooConfig, *args: Any, **options: Any) -> optax.GradientTransformation:
    """An optax transformation that returns the direction of Shampoo's update. The arguments are the
    fields of `Shampoo`."""
    rule = Shampoo(config, *args, **options)
    return optax.GradientTransformation(rule.init, rule.update)


def _when(due: Array, compute: Callable[[], PyTree], before: PyTree) -> PyTree:
    """`compute()` if due, else `before` without computing anything."""
    return jax.lax.cond(due, compute, lambda: before)


def _grafts(
    config: ShampooConfig, beta2: float, plans: PyTree, grads: PyTree, squares: PyTree
) -> tuple[PyTree, PyTree]:
    """The graft's updates, layer by layer, and its new second moments."""
    graft = GRAFTS[config.graft]
    scale = Scale(beta2, config.graft_epsilon, config.graft_clip)
    if config.graft in WITHOUT_SQUARES:
        return jax.tree.map(lambda g: graft(g, None, scale)[0], grads), ()

    def of_leaf(plan: Plan, gradient: Array, sums: Array) -> tuple[Array, Array]:
        of_layer = jax.vmap(lambda g, s: graft(g, s, scale))
        update, sums = of_layer(plan.split_layers(gradient), plan.split_layers(sums))
        return update.reshape(gradient.shape), sums.reshape(gradient.shape)

    both = jax.tree.map(of_leaf, plans, grads, squares)
    return jax.tree.transpose(jax.tree.structure(grads), jax.tree.structure((0, 0)), both)


def _shape(
    config: ShampooConfig, plan: Plan, gradient: Array, grafted: Array, matrices: PyTree
) -> Array:
    """The preconditioned gradient with the norm of the graft's update, layer by layer."""
    if not plan.preconditioned:
        return grafted
    direction = precondition(config, plan, gradient, matrices)

    def lengthen(direction: Array, grafted: Array) -> Array:
        ratio = jnp.linalg.norm(grafted.ravel()) / (jnp.linalg.norm(direction.ravel()) + TINY)
        return direction * ratio

    return jax.vmap(lengthen)(direction, plan.split_layers(grafted)).reshape(gradient.shape)

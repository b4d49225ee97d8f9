"""Averages of the weights: exponential moving ones (Polyak & Juditsky 1992), and schedule-free
learning.

Schedule-free learning (Defazio et al. 2024, arXiv:2405.15682; optax.contrib) evaluates a running
average of its iterates, and takes gradients at a point between the two.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from optim.config import OptimConfig


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


def schedule_free(
    inner: optax.GradientTransformation, beta: float
) -> optax.GradientTransformationExtraArgs:
    """optax's schedule_free around `inner`, which has no momentum. The result is a direction: the
    training step multiplies it by the learning rate. The trained parameters are y; `averaged`
    returns x."""

    def rule(rate: Array | float) -> optax.GradientTransformationExtraArgs:
        downhill = optax.chain(inner, optax.scale(-1.0), optax.stateless(_times(rate)))
        return optax.contrib.schedule_free(downhill, learning_rate=rate, b1=beta)

    def update(
        grads: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        learning_rate: Array | float | None = None,
        **_: object,
    ) -> tuple[PyTree, PyTree]:
        if learning_rate is None:
            raise ValueError("schedule_free needs update(…, learning_rate=…)")
        rate = jnp.asarray(learning_rate, jnp.float32)
        moved, state = rule(rate).update(grads, state, params)
        inverse = jnp.where(rate > 0, -1 / rate, 0.0)
        return jax.tree.map(lambda u: inverse * u, moved), state

    return optax.GradientTransformationExtraArgs(rule(0.0).init, update)


def averaged(params: PyTree, opt_state: PyTree) -> PyTree:
    """x, the parameters to evaluate, from the trained parameters y and their optimizer state, which
    holds one schedule_free state."""
    [state] = (part for part in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(part))
    return optax.contrib.schedule_free_eval_params(state, params)


def replaced(opt_state: PyTree, params: Mapping[str, Array]) -> PyTree:
    """The optimizer state in which schedule-free's iterates z of these parameters are copies of
    them. Other optimizers hold no parameters. A name is an entry of the whole parameters."""

    def replace(part: PyTree) -> PyTree:
        if not _is_state(part):
            return part
        trained = {name: jnp.copy(array) for name, array in params.items() if name in part.z}
        return part._replace(z={**part.z, **trained})

    return jax.tree.map(replace, opt_state, is_leaf=_is_state)


def make_average(config: OptimConfig) -> Callable[[PyTree, PyTree, PyTree, Array], PyTree] | None:
    """A function (averages, trained parameters, optimizer state, finished updates) → new averages,
    for the training step; None if the configuration keeps none."""
    if config.name == "schedule_free":
        return lambda averages, params, opt_state, step: averaged(params, opt_state)
    return make_ema(config.ema_decay)


def _times(rate: Array | float) -> Callable[[PyTree, PyTree], PyTree]:
    return lambda updates, params: jax.tree.map(lambda u: rate * u, updates)


def _is_state(part: object) -> bool:
    return isinstance(part, optax.contrib.ScheduleFreeState)

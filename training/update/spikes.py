"""The guard inside the step: it skips harmful updates.

NaN and infinity never reach the parameters. A spike is a loss or a gradient norm far above the
recent good ones, measured in median absolute deviations, because single outliers do not move the
median. If many updates in a row are spikes although the weights do not change, the settings or the
data have changed the level of the loss; the guard then accepts the new level. Batches skipped after
a rollback are in training/skips.py.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from training.config import TrainingConfig
from training.update.step_metrics import GuardMetrics

T = TypeVar("T")
MEMORY = 1000  # updates after which a bad update counts a third
# The least deviation: this share of the median loss, or this in the logarithm of the norm. With it
# no value of four quickstart runs was more than 3.1 deviations above the median.
LOSS_FLOOR, NORM_FLOOR = 0.02, 0.1
FINE, NOT_FINITE, SPIKE, LEVEL = 0, 1, 2, 3


class Guard(NamedTuple):
    """Losses and norms of recent good updates; part of the state, and so of its checkpoints."""

    losses: Float[Array, " w"]
    norms: Float[Array, " w"]
    """Logarithms of gradient norms."""
    seen: Int[Array, ""]
    """Good updates so far."""
    pressure: Float[Array, ""]
    """Number of recent bad updates; the weight of each decays with the updates after it."""
    refused: Int[Array, ""]
    """Spikes skipped since the last good update."""


def init_guard(settings: TrainingConfig) -> Guard:
    """The guard before the first update."""
    zeros = jnp.zeros(settings.spike_window, jnp.float32)
    return Guard(zeros, zeros, jnp.int32(0), jnp.float32(0), jnp.int32(0))


def reset_budget(guard: Guard) -> Guard:
    """The guard with its whole budget of bad updates."""
    return guard._replace(pressure=0 * guard.pressure)


def judge(
    guard: Guard,
    settings: TrainingConfig,
    is_warm: Bool[Array, ""],
    loss: Float[Array, ""],
    norm: Float[Array, ""],
    params_norm: Float[Array, ""],
    is_scale_too_high: Bool[Array, ""],
) -> tuple[Bool[Array, ""], Guard, GuardMetrics]:
    """(True if the update is good, the new guard, its metrics).

    `params_norm` is the norm of the updated weights. It can be NaN while loss and gradient are
    finite, such as 0 / 0 with optim.epsilon 0. `is_scale_too_high`: float16 overflowed, and a lower
    loss scale can be tried; such an update does not count as bad.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(params_norm)
    log_norm = jnp.log(jnp.maximum(norm, 1e-30))
    spike = jnp.bool_(False)
    if settings.on_spike != "off":
        is_full = guard.seen >= settings.spike_window
        above = jnp.maximum(
            _deviations(loss, guard.losses, LOSS_FLOOR * jnp.abs(jnp.median(guard.losses))),
            _deviations(log_norm, guard.norms, NORM_FLOOR),
        )
        spike = finite & is_full & is_warm & (above > settings.spike_threshold)
    is_level = spike & (guard.refused >= settings.spike_patience)
    good = finite & (~spike | is_level)
    seen = jnp.where(is_level, 0, guard.seen)  # the old level is forgotten
    place = seen % settings.spike_window
    remembered = Guard(
        losses=guard.losses.at[place].set(jnp.where(good, loss, guard.losses[place])),
        norms=guard.norms.at[place].set(jnp.where(good, log_norm, guard.norms[place])),
        seen=seen + good,
        pressure=guard.pressure * (1 - 1 / MEMORY) + (~good & ~is_scale_too_high),
        refused=jnp.where(good, 0, guard.refused + spike),
    )
    event = jnp.where(good | is_scale_too_high, FINE, jnp.where(finite, SPIKE, NOT_FINITE))
    event = jnp.where(is_level, LEVEL, event)
    return good, remembered, GuardMetrics(event.astype(jnp.float32), remembered.pressure)


def _deviations(
    value: Float[Array, ""], window: Float[Array, " w"], floor: Float[Array, ""] | float
) -> Float[Array, ""]:
    """The value minus the window's median, in robust standard deviations."""
    middle = jnp.median(window)
    deviation = 1.4826 * jnp.median(jnp.abs(window - middle))  # σ, if the values are normal
    return (value - middle) / jnp.maximum(jnp.maximum(deviation, floor), 1e-12)


def new_if(good: Bool[Array, ""], new: T, old: T) -> T:
    """`new` if `good`, else `old`, bit for bit."""
    return jax.tree.map(lambda fresh, kept: jnp.where(good, fresh, kept), new, old)

"""The metrics of an update, and the row of them that is logged."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from training.update.observables import Number, Observed, unpack

Row = dict[str, Number]
"""Logged values by name: numbers, or lists for vectors such as histograms."""


class GuardMetrics(NamedTuple):
    """The guard's decision about an update (training/update/spikes.py)."""

    event: Float[Array, ""]
    """FINE, NOT_FINITE, SPIKE or LEVEL."""
    pressure: Float[Array, ""]
    """Number of recent bad updates."""


class ScaleMetrics(NamedTuple):
    """The loss scale of an update in float16."""

    scale: Float[Array, ""]
    skipped: Float[Array, ""]
    """1 if the gradients overflowed, else 0."""


class StepMetrics(NamedTuple):
    """The metrics of an update. Loss and gradient are means over the batch."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    params_norm: Float[Array, ""]
    """Norm of the parameters after the update."""
    learning_rate: Float[Array, ""]
    more: Mapping[str, Array]
    """The metrics of the loss and of further players, by the names in the log."""
    guard: GuardMetrics | None = None
    """None without a guard."""
    loss_scale: ScaleMetrics | None = None
    """None without a loss scale."""
    observed: tuple[Observed, ...] = ()
    """The values of the observables; zeros for those that were not due."""


def numbers(row: Mapping[str, Number]) -> dict[str, int | float]:
    """The row without its vectors."""
    return {name: value for name, value in row.items() if not isinstance(value, list)}


def evaluated(row: Mapping[str, Number]) -> dict[str, int | float]:
    """The numbers that evaluations returned, eval/…."""
    return {name: value for name, value in numbers(row).items() if name.startswith("eval/")}


def to_row(metrics: StepMetrics) -> Row:
    """The metrics as floats by their names in the log, sorted, then the observables that were
    due."""
    fetched = jax.device_get(metrics)
    values = {
        "train/loss": fetched.loss,
        "norm/grad": fetched.grad_norm,
        "norm/params": fetched.params_norm,
        "schedule/learning_rate": fetched.learning_rate,
        **fetched.more,
    }
    if fetched.guard is not None:
        values |= {"guard/event": fetched.guard.event, "guard/pressure": fetched.guard.pressure}
    if fetched.loss_scale is not None:
        values["loss_scale/scale"] = fetched.loss_scale.scale
        values["loss_scale/skipped"] = fetched.loss_scale.skipped
    return {**{name: float(values[name]) for name in sorted(values)}, **unpack(fetched.observed)}

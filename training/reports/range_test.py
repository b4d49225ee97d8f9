"""A learning rate to start from: it rises while a short run trains, and the loss says where it was
too high. Smith 2015, arXiv:1506.01186.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array

from files import write_bytes
from svg import plot
from training.config import RunConfig

C = TypeVar("C", bound=RunConfig)
LOWEST, HIGHEST = 1e-3, 100.0
"""Of the configured rate."""
SMOOTHING = 0.9
"""Decay of the mean that the loss is smoothed by."""
SHARE = 0.1
"""Of the rate with the lowest loss: the rate that is named."""
PLOT = "lr_range.svg"


def unbroken(config: C) -> C:
    """The configuration of a range test that no spike and no NaN ends; any other as it is."""
    training = config.training
    if not training.lr_range_test:
        return config
    budget = max(training.steps, training.bad_update_budget) + 1
    return replace(config, training=replace(training, on_spike="off", bad_update_budget=budget))


def rising(rate: float, steps: int) -> Callable[[Array], Array]:
    """A schedule: finished updates → learning rate, the same factor more at each."""
    growth = math.log(HIGHEST / LOWEST) / max(steps - 1, 1)
    return lambda step: rate * LOWEST * jnp.exp(growth * step.astype(jnp.float32))


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential means, without the bias of their start."""
    found, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def find_rate(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """The rate to start from, and the one with the lowest smoothed loss. Raises ValueError where
    the losses never fall."""
    smoothed = smooth(losses)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if lowest == 0:
        raise ValueError("the loss never fell; take more --training.steps, or a lower rate")
    return SHARE * rates[lowest], rates[lowest]


def report(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """A line that names a rate, of the rows of a run's metrics.jsonl; draws RUN/lr_range.svg."""
    pairs = [(row.get("schedule/learning_rate"), row.get("train/loss")) for row in rows]
    kept = [(float(r), float(v)) for r, v in pairs if r is not None and v is not None]
    rates, losses = [r for r, _ in kept], [v for _, v in kept]
    try:
        rate, lowest = find_rate(rates, losses)
    except ValueError as error:
        return f"lr_range_test: {error}"
    lines = {"smoothed loss": list(zip(rates, smooth(losses), strict=True))}
    mark = [(rate, f"a rate to start from: {rate:.2g}")]
    drawn = plot(lines, "learning rate", "loss", log_x=True, marks=mark)
    write_bytes(folder / PLOT, drawn.encode())
    return (
        f"lr_range_test: the loss is lowest at {lowest:.2g}; start from a tenth, "
        f"--optim.learning_rate={rate:.2g} ({folder / PLOT})"
    )

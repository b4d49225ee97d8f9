"""Learning-rate range test: the rate rises during a short run, and the loss shows where it is too
high. Smith 2015, arXiv:1506.01186.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array

from common.files import write_bytes
from common.json_files import Json
from common.svg import plot
from training.config import RunConfig

C = TypeVar("C", bound=RunConfig)
LOWEST, HIGHEST = 1e-3, 100.0
"""First and last rate, as factors of the configured one."""
SMOOTHING = 0.9
"""Decay of the exponential mean of the loss."""
SHARE = 0.1
"""Recommended rate, as a share of the rate with the lowest loss."""
PLOT = "lr_range.svg"


def without_guard(config: C) -> C:
    """The configuration with the guard off, so that no spike or NaN ends a range test; unchanged
    without training.lr_range_test."""
    training = config.training
    if not training.lr_range_test:
        return config
    budget = max(training.steps, training.bad_update_budget) + 1
    return replace(config, training=replace(training, on_spike="off", bad_update_budget=budget))


def rising(rate: float, steps: int) -> Callable[[Array], Array]:
    """A schedule, finished updates → learning rate, that grows by a constant factor."""
    growth = math.log(HIGHEST / LOWEST) / max(steps - 1, 1)
    return lambda step: rate * LOWEST * jnp.exp(growth * step.astype(jnp.float32))


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential moving averages of the losses, with bias correction."""
    smoothed, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    return smoothed


def find_rate(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """(recommended rate, rate with the lowest smoothed loss). Raises ValueError if the loss never
    falls."""
    smoothed = smooth(losses)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if lowest == 0:
        raise ValueError("the loss never fell; take more --training.steps, or a lower rate")
    return SHARE * rates[lowest], rates[lowest]


def report(folder: Path, rows: Sequence[Json]) -> str:
    """A line with the recommended rate, computed from the rows of metrics.jsonl. Writes
    RUN/lr_range.svg."""
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

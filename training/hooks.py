"""Periodic work on a finished state, as functions that training/loop.py's hooks call."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from training.update.observables import whole_norm
from training.update.precision import widen
from training.update.state import TrainState

EvalLoss = Callable[[Any, dict[str, Any]], tuple[Any, Any]]


def evaluate_loss(
    loss: EvalLoss, sets: Mapping[str, Callable[[], Iterable[dict[str, np.ndarray]]]]
) -> Callable[[int, TrainState], dict[str, float]]:
    """A hook that returns the mean of `loss` over each named set. `loss` returns the sum over a
    batch and its weight, over all devices if training/devices/parallel.py's compile_sums made
    it."""

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        values = {}
        for name, batches in sets.items():
            sums = [loss(state.weights, batch) for batch in batches()]
            total, weight = np.sum(np.array(sums, dtype=np.float64), axis=0)
            values[f"eval/{name}/loss"] = float(total / weight)
        return values

    return evaluate


def measure_distance(begin: Callable[[], Any]) -> Callable[[int, TrainState], dict[str, float]]:
    """A hook that returns the L2 distance between the parameters and `begin()`, which is called
    when the hook is first due."""
    held: list[Any] = []
    away = jax.jit(lambda a, b: whole_norm(jax.tree.map(lambda x, y: widen(x) - widen(y), a, b)))

    def measure(step: int, state: TrainState) -> dict[str, float]:
        if not held:
            held.append(begin())
        return {"look/distance": float(away(state.params, held[0]))}

    return measure

"""Actions of hooks (training/loop.py) that every trainer uses: evaluation and distance."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array, PyTree

from training.config import RunConfig
from training.devices import placing
from training.devices.devices import Devices
from training.loop import Hook
from training.recipe import Recipe
from training.update.build import make_state
from training.update.observables import whole_norm
from training.update.precision import to_float32
from training.update.state import TrainState

H = TypeVar("H")
"""This process's rows of a batch."""
EvalLoss = Callable[[PyTree, H], tuple[Array | float, Array | float]]
"""(parameters, batch) → (sum of the losses, sum of the weights)."""


def evaluate_loss(
    loss: EvalLoss[H], sets: Mapping[str, Callable[[], Iterable[H]]], name: str = "loss"
) -> Callable[[int, TrainState], dict[str, float]]:
    """An action that returns the mean loss over each set, as eval/<set>/<name>. `loss` returns (sum
    over a batch, sum of weights), over all devices if `over_rows.compile_sums` made it."""

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        values = {}
        for set_name, batches in sets.items():
            sums = [loss(state.weights, batch) for batch in batches()]
            total, weight = np.sum(np.array(sums, dtype=np.float64), axis=0)
            values[f"eval/{set_name}/{name}"] = float(total / weight)
        return values

    return evaluate


def measure_distance(start: Callable[[], PyTree]) -> Callable[[int, TrainState], dict[str, float]]:
    """An action that returns the L2 distance of the parameters from `start()`, as look/distance.

    `start` is called once, when the hook is first due. If it raises ValueError or OSError, because
    a resumed run no longer has the weights that it began with, a line says so, and nothing is
    measured.
    """
    away = jax.jit(
        lambda a, b: whole_norm(jax.tree.map(lambda x, y: to_float32(x) - to_float32(y), a, b))
    )

    @functools.cache
    def start_or_none() -> PyTree | None:
        try:
            return start()
        except (ValueError, OSError) as error:
            print(f"look/distance is not measured: {error}", file=sys.stderr, flush=True)
            return None

    def measure(step: int, state: TrainState) -> dict[str, float]:
        held = start_or_none()
        return {} if held is None else {"look/distance": float(away(state.params, held))}

    return measure


def distance_hooks(config: RunConfig, recipe: Recipe, devices: Devices) -> list[Hook]:
    """The hook of `measure_distance` from the run's initial weights, if training.observe is on. A
    branch has none, because its initial weights are another run's."""
    if config.training.observe == "off" or config.branch_from:
        return []

    def initial_params() -> PyTree:
        create = make_state(config, recipe.init, recipe.players)
        params = placing.create(lambda: create().params, devices)
        return placing.place(recipe.start(config.init_from, params)[0], devices)

    return [Hook(config.training.observe_every, measure_distance(initial_params))]

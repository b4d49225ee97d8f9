"""Compiled programs that several runs of one process share.

Runs with the same `Programs` that differ only in seed, length and learning rate compile once,
because the learning rate is an argument of the program, not a constant in it. The results equal
the results of separate processes bit for bit (tests/training/test_shared.py).
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from common.batch import A, Batch, HostBatch
from common.settings import to_tree
from training.config import RunConfig
from training.devices import parallel, placing
from training.devices.devices import Devices
from training.update.state import TrainState
from training.update.step import CompiledStep, StepParts, train_step
from training.update.step_metrics import StepMetrics

T = TypeVar("T")
MOST = 32
FREE = {
    *("output_dir", "name", "note", "seed", "grids", "checkpoint", "tracker", "sampling"),
    *("allow_changes", "init_from", "branch_from", "choose_sampling", "data.validation"),
    *("training.steps", "training.epochs", "training.least_steps"),
    *("training.eval_every", "training.log_every"),
    *("optim.learning_rate", "optim.schedule", "optim.decay_fraction", "optim.decay_steps"),
    *("optim.decay_shape", "optim.final_fraction", "optim.power", "optim.rsqrt_steps"),
    *("optim.transition_steps", "optim.transition_begin", "optim.decay_rate", "optim.staircase"),
    *("optim.rewarm_from", "optim.rewarm_steps"),
}
"""Settings that do not change the compiled program."""


class Programs:
    """Programs by key: a cache of at most `most`, least recently used first out."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The program of this key, made by `make()` if the cache does not hold it."""
        program = self._kept.pop(key, None)
        self._kept[key] = make() if program is None else program
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[key]


class RatedBatch(Batch[A], Generic[A]):
    """A batch of a shared update, with its learning rate."""

    learning_rate: Float[A, "1"]


def program(programs: Programs | None, name: str, config: RunConfig, make: Callable[[], T]) -> T:
    """The program of this kind and configuration: made by `make()`, unless `programs` holds it."""
    return make() if programs is None else programs.get(f"{name} {_key(config)}", make)


def create(
    programs: Programs | None,
    make: Callable[..., TrainState],
    config: RunConfig,
    devices: Devices,
) -> TrainState:
    """The state before the first update, created sharded; `make(seed)` is traced."""
    if programs is None:
        return placing.create(make, devices)
    shardings = placing.shardings(jax.eval_shape(make), devices)
    seed = np.uint32(config.seed & 0xFFFFFFFF)
    return program(programs, "create", config, lambda: jax.jit(make, out_shardings=shardings))(seed)


def compile_step(
    programs: Programs | None, parts: StepParts, config: RunConfig, devices: Devices
) -> CompiledStep:
    """The compiled update. A shared one gets its learning rate with each batch."""
    if programs is None or devices.mode != "pmap" or len(devices) > 1:
        return parallel.compile_step(partial(train_step, parts), devices)

    def update(state: TrainState, batch: RatedBatch) -> tuple[TrainState, StepMetrics]:
        rows = {name: array for name, array in batch.items() if name != "learning_rate"}
        at_rate = replace(parts, schedule=lambda step: batch["learning_rate"][0])
        return train_step(at_rate, state, rows)

    compiled = program(programs, "update", config, lambda: parallel.compile_step(update, devices))
    rates = np.asarray(jax.jit(jax.vmap(parts.schedule))(np.arange(config.training.steps)))

    def run(state: TrainState, batch: HostBatch) -> tuple[TrainState, StepMetrics]:
        rate = rates[int(state.step)].reshape(1)
        rated: RatedBatch[np.ndarray] = {**batch, "learning_rate": rate}
        return compiled(state, rated)

    return run


def _key(config: RunConfig) -> str:
    """The settings that change the compiled program, as text."""
    tree = to_tree(config)
    free = FREE - ({"optim.learning_rate"} if config.optim.independent_decay else set())
    kept = {
        f"{name}.{inner}" if inner else name: value
        for name, part in tree.items()
        for inner, value in (part.items() if isinstance(part, dict) else [("", part)])
        if name not in free and f"{name}.{inner}" not in free
    }
    return type(config).__qualname__ + json.dumps(kept, sort_keys=True)

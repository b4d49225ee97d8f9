"""Observables: named values of an update, computed when due, the same on any devices."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.spread import spread_step
from training.config import ParallelConfig
from training.devices import parallel, placing
from training.devices.devices import find_devices
from training.reports import metrics as metrics_files
from training.update.observables import Observable, Update, unpack
from training.update.state import TrainState
from training.update.step import Step
from training.update.step_metrics import to_row

EDGES = np.linspace(-2, 2, 9)


def loss(params: dict, batch: Any, keys: Any, context: Any) -> tuple[jax.Array, dict]:
    away = jnp.square(params["kernel"][None] - batch["target"])
    return away.mean(), {"train/away": away.max()}


def look(update: Update) -> Mapping[str, jax.Array]:
    counts = jnp.histogram(update.grads["kernel"], EDGES)[0]
    return {"gradient/largest": jnp.abs(update.grads["kernel"]).max(), "gradient/counts": counts}


def compose(table: list[Observable], config: ParallelConfig) -> tuple[Step, Any, Any]:
    devices, optimizer = find_devices(config), make_optimizer(OptimConfig())
    step = spread_step(devices, loss, optimizer, lambda step: jnp.float32(0.1), observables=table)
    create = lambda: TrainState.create(  # noqa: E731
        lambda key: {"kernel": jax.random.normal(key, (16,))}, optimizer, 0
    )
    return step, placing.create(create, devices), devices


def batch() -> Any:
    target = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    return {"target": target, "example_index": np.arange(8, dtype=np.int32)}


@pytest.mark.parametrize(
    "config",
    [
        ParallelConfig(devices=1),
        ParallelConfig(devices=4),
        ParallelConfig(mode="mesh"),
        ParallelConfig(mode="mesh", fsdp=4),
    ],
)
def test_values_are_those_of_numpy_on_any_devices_and_come_when_due(config: ParallelConfig) -> None:
    step, state, devices = compose([Observable(2, look)], config)
    compiled = parallel.compile_step(step, devices)
    state, first = compiled(state, batch())
    before = np.asarray(placing.on_first_device(state.params)["kernel"])
    state, second = compiled(state, batch())
    assert "gradient/largest" not in to_row(first)
    row = to_row(second)
    gradient = (2 * (before - batch()["target"])).mean(0) / 16
    np.testing.assert_allclose(row["gradient/largest"], np.abs(gradient).max(), rtol=1e-5)
    np.testing.assert_array_equal(row["gradient/counts"], np.histogram(gradient, EDGES)[0])


def test_an_observable_is_computed_only_when_due() -> None:
    looked: list[int] = []

    def count(update: Update) -> Mapping[str, jax.Array]:
        jax.debug.callback(lambda step: looked.append(int(step)), update.step)
        return {"seen": jnp.float32(1)}

    step, state, _ = compose([Observable(3, count)], ParallelConfig(devices=1))
    compiled = jax.jit(step)
    for _ in range(7):
        state, _ = compiled(state, batch())
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert looked == [2, 5]


def test_one_that_is_never_due_leaves_the_program_as_it_was() -> None:
    programs = [
        jax.jit(step).lower(state, batch()).as_text()
        for table in ([], [Observable(0, look)])
        for step, state, _ in [compose(table, ParallelConfig(devices=1))]
    ]
    assert programs[0] == programs[1]


def test_numbers_and_vectors_reach_the_file_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    table = [Observable(1, lambda update: {"v": jnp.array([1.0, jnp.nan]), "n": update.step})]
    step, state, _ = compose(table, ParallelConfig(devices=1))
    _, metrics = jax.jit(step)(state, batch())
    assert unpack(metrics.observed)["n"] == 0.0
    file = metrics_files.MetricsFile(tmp_path / "metrics.jsonl", 0, lambda step: step)
    file.write(1, {"time/step_ms": 1.0, **to_row(metrics)})
    file.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["v"] == [1.0, None]
    assert row["n"] == 0.0

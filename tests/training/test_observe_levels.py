"""The values of training.observe equal NumPy's on a quadratic with known gradients and Hessian, on
any devices for the same parts of the batch."""

from functools import cache
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
from training.hooks import measure_distance
from training.update.observe_levels import make_observables
from training.update.state import TrainState
from training.update.step_metrics import to_row

RATE, SIZE, PARTS = 0.1, 6, 4
HALF = np.random.default_rng(0).normal(size=(SIZE, SIZE))
HESSIAN = np.float32(HALF @ HALF.T / SIZE + np.eye(SIZE))
TARGETS: Any = np.float32(1.0 + np.random.default_rng(1).normal(size=(2 * PARTS, SIZE)))
"""Rows 2i and 2i + 1 are part i of the batch."""
ORDERS = {  # micro-batches per device → order of rows that gives the parts of TARGETS
    4: [0, 2, 4, 6, 1, 3, 5, 7],
    2: [0, 2, 1, 3, 4, 6, 5, 7],
    1: [0, 1, 2, 3, 4, 5, 6, 7],
}


def loss(params: Any, batch: Any, keys: Any, context: Any) -> tuple[jax.Array, dict]:
    away = params["head"]["kernel"][None] - batch["target"]
    return 0.5 * jnp.einsum("bi,ij,bj->b", away, HESSIAN, away).mean(), {}


@cache
def seen(config: ParallelConfig, micro_batches: int) -> dict[str, Any]:
    """The logged row of the first update, at which all observables are due."""
    devices = find_devices(config)
    optimizer = make_optimizer(OptimConfig(name="sgd", beta1=0.0, clip_norm=0.0))
    step = spread_step(
        devices,
        loss,
        optimizer,
        lambda step: jnp.float32(RATE),
        micro_batches=lambda rows: micro_batches,
        observables=make_observables("full", 1, PARTS),
        shares=devices.num_shares if devices.mode == "pmap" else 1,
    )
    create = lambda: TrainState.create(  # noqa: E731
        lambda key: {"head": {"kernel": jnp.zeros((SIZE,))}}, optimizer, 0
    )
    order = ORDERS[micro_batches]
    batch: Any = {"target": TARGETS[order], "example_index": np.arange(len(order), dtype=np.int32)}
    state = placing.create(create, devices)
    state, metrics = parallel.compile_step(step, devices)(state, batch)
    distance = measure_distance(lambda: placing.create(create, devices).params)
    return {**to_row(metrics), **distance(1, state)}


def parts() -> np.ndarray:
    """The gradients of the parts at parameters 0, in float64."""
    means = np.float64(TARGETS).reshape(PARTS, 2, SIZE).mean(1)
    return -means @ np.float64(HESSIAN)


def test_sizes_and_distance_are_numpy_s() -> None:
    row, gradient = seen(ParallelConfig(devices=1), 4), parts().mean(0)
    length = np.linalg.norm(gradient)
    np.testing.assert_allclose(row["look/gradient"], length, rtol=1e-5)
    np.testing.assert_allclose(row["look/update"], RATE * length, rtol=1e-5)
    np.testing.assert_allclose(row["look/distance"], RATE * length, rtol=1e-5)


def test_noise_scale_gsnr_norm_and_inner_product_tests_are_numpy_s() -> None:
    row, grads = seen(ParallelConfig(devices=1), 4), parts()
    mean, size = grads.mean(0), 2
    variance = size * grads.var(0, ddof=1)  # of one example
    square, batch = mean @ mean, PARTS * size
    expected = {
        "noise_scale": variance.sum() / (square - variance.sum() / batch),
        "gsnr": (mean**2 / variance).mean(),
        "norm_test": np.sqrt(((grads**2).sum() / square - PARTS) / (PARTS * (PARTS - 1))),
        "inner_product_test": np.sqrt(
            (((grads @ mean) ** 2).sum() / square**2 - PARTS) / (PARTS * (PARTS - 1))
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(row[f"look/{name}"], value, rtol=1e-3, err_msg=name)


def test_alpha_is_that_of_the_parabola_along_the_update() -> None:
    """The loss is a parabola: its minimum is at g·g / g·Hg of the gradient's length."""
    gradient = parts().mean(0)
    bottom = gradient @ gradient / (gradient @ np.float64(HESSIAN) @ gradient)
    found = seen(ParallelConfig(devices=1), 4)["look/alpha"]
    np.testing.assert_allclose(found, RATE / bottom - 1, rtol=1e-3)


def test_the_top_eigenvalue_is_numpy_s_and_the_trace_is_near_it() -> None:
    """Hutchinson's estimate from 4 vectors has a known standard deviation: √(2 Σ offdiagonal² /
    4)."""
    row = seen(ParallelConfig(devices=1), 4)
    largest = np.linalg.eigvalsh(np.float64(HESSIAN))[-1]
    np.testing.assert_allclose(row["look/hessian_top"], largest, rtol=1e-3)
    off = np.float64(HESSIAN) - np.diag(np.diag(HESSIAN))
    deviation = np.sqrt(2 * np.square(off).sum() / 4)
    assert abs(row["look/hessian_trace"] - np.trace(HESSIAN)) < 4 * deviation


def test_histograms_count_every_entry_by_its_order_of_magnitude() -> None:
    row, gradient = seen(ParallelConfig(devices=1), 4), parts().mean(0)
    expected = np.zeros(14)
    for value in gradient:
        expected[int(np.floor(np.log10(abs(value)))) + 11] += 1
    assert row["histogram/grad/head/kernel"] == expected.tolist()
    assert row["histogram/param/head/kernel"] == [SIZE, *[0] * 13]  # zeros at the start


@pytest.mark.parametrize(
    ("config", "micro_batches"),
    [
        (ParallelConfig(devices=2), 2),
        pytest.param(ParallelConfig(devices=4), 1, marks=pytest.mark.slow),
        (ParallelConfig(mode="mesh", fsdp=2), 4),
    ],
    ids=["2", "4", "mesh"],
)
def test_they_are_equal_on_any_devices(config: ParallelConfig, micro_batches: int) -> None:
    alone, found = seen(ParallelConfig(devices=1), 4), seen(config, micro_batches)
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_batch_in_one_part_has_no_spread() -> None:
    looks = {one.compute.__name__ for one in make_observables("business", 5, 1)}
    assert looks == {"sizes", "histograms", "parabola"}
    assert make_observables("off", 5, 4) == []

"""Shampoo gives the same updates on several devices as on one; each computes a share of the
roots."""

import os
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig, ShampooConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from tests.spread import spread_step
from training.config import ParallelConfig
from training.devices import in_step, parallel, placing
from training.devices.devices import Devices, find_devices
from training.update.state import TrainState

ROOT = Path(__file__).parent.parent.parent
ROWS, DIM, WIDE, CLASSES, STEPS, RATE = 8, 16, 24, 20, 10, 2e-3
BLOCK = 8
MATRICES = 58
"""Number of 8 × 8 statistics: two for each of the 12 blocks in the two kernels of two layers, two
for each of the head's 4 full blocks, one for each of its 2 blocks of 8 × 4."""
SHAMPOO = ShampooConfig(block_size=BLOCK, merge_dims=0, roots_every=3, start_step=2, min_rank=2)
ONE = ParallelConfig(devices=1)
PMAP = ParallelConfig()
DATA = ParallelConfig(mode="mesh")
FSDP = ParallelConfig(mode="mesh", fsdp=4)
TENSOR = ParallelConfig(mode="mesh", tensor=2)
ALL = ParallelConfig(mode="mesh", fsdp=2, tensor=2)
EVERY = [PMAP, ALL, *(pytest.param(one, marks=pytest.mark.slow) for one in (DATA, FSDP, TENSOR))]
named = partial(pytest.mark.parametrize, "config", ids=lambda c: f"{c.mode}-{c.fsdp}-{c.tensor}")


def init(key: jax.Array) -> Any:
    """Parameters of an embedding, two stacked feed-forwards and a head, with the model's names."""
    shapes = {
        "text_embedding": {"tokens": (CLASSES, DIM)},
        "encoder": {
            "run0": {"mlp": {"up": {"kernel": (2, DIM, WIDE)}, "down": {"kernel": (2, WIDE, DIM)}}}
        },
        "head": {"kernel": (DIM, CLASSES)},
    }
    leaves, structure = jax.tree.flatten(shapes, lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [0.3 * jax.random.normal(k, shape) for k, shape in zip(keys, leaves, strict=True)],
    )


def loss(params: Any, batch: Any, keys: Any, context: Any) -> tuple[jax.Array, dict]:
    def layer(x: jax.Array, mlp: Any) -> tuple[jax.Array, None]:
        return x + jnp.tanh(x @ mlp["up"]["kernel"]) @ mlp["down"]["kernel"], None

    x = params["text_embedding"]["tokens"][batch["text_tokens"]]
    x, _ = jax.lax.scan(layer, x, params["encoder"]["run0"]["mlp"])
    scores = jax.nn.log_softmax(x @ params["head"]["kernel"])
    return -jnp.take_along_axis(scores, batch["text_tokens"][..., None] // 2, -1).mean(), {}


def batch_at(step: int) -> Any:
    tokens = np.random.default_rng(step).integers(0, CLASSES, (ROWS, 6), np.int32)
    return {"text_tokens": tokens, "example_index": np.arange(ROWS, dtype=np.int32)}


@cache
def compiled(config: ParallelConfig) -> tuple[Devices, TrainState, Any]:
    """The devices, the initial state on the host, and the compiled update."""
    devices = find_devices(config)
    optim = OptimConfig(
        name="shampoo", learning_rate=RATE, warmup_steps=0, decay_fraction=0.0, shampoo=SHAMPOO
    )
    step = spread_step(
        devices,
        loss,
        make_optimizer(optim, in_step.make_spread(devices)),
        make_schedule(optim, STEPS),
    )
    create = partial(TrainState.create, init, make_optimizer(optim), 0)
    state = placing.create(create, devices)
    update = parallel.lower_step(step, devices, state, batch_at(0)).compile()
    return devices, jax.device_get(state), update


@cache
def trained(config: ParallelConfig) -> TrainState:
    devices, start, update = compiled(config)
    state = placing.place(start, devices)
    for n in range(STEPS):
        state, _ = update(state, parallel.arrange_rows(batch_at(n), devices))
    return jax.device_get(state)


def distance(a: TrainState, b: TrainState) -> tuple[float, float]:
    """The relative L2 norm, and the largest entry, of the parameters' difference."""
    pairs = list(zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))
    square = sum(np.square(x - y).sum() for x, y in pairs)
    size = sum(np.square(x).sum() for x, _ in pairs)
    return np.sqrt(square / size), max(np.abs(x - y).max() for x, y in pairs)


@named(EVERY)
def test_ten_steps_are_the_same_as_on_one_device(config: ParallelConfig) -> None:
    relative, largest = distance(trained(ONE), trained(config))
    print(f"relative L2 {relative:.1e}, largest entry {largest / RATE:.1e} × the learning rate")
    assert relative <= 1e-4
    assert largest <= 0.1 * RATE
    moved, _ = distance(trained(ONE), compiled(ONE)[1])
    assert moved > 1e-3


@named([ONE, *EVERY])
def test_each_device_computes_its_share_of_the_roots(config: ParallelConfig) -> None:
    """Counts the products in the loops of the program that each device runs."""
    devices, _, update = compiled(config)
    lines = [line for line in update.as_text().splitlines() if "/cond/" in line]
    products = [re.search(r"= f32\[(\d+),8,8\]\S* dot\(.*/while/body/", one) for one in lines]
    jobs = {int(found[1]) for found in products if found}
    assert jobs == {-(-MATRICES // len(devices))}


@named(EVERY)
def test_matrices_are_sharded_over_all_of_the_mesh(config: ParallelConfig) -> None:
    devices, start, _ = compiled(config)
    state = placing.place(start, devices)
    kept = state.opt_state[1].statistics["encoder"]["run0"]["mlp"]["up"]["kernel"][0][0]
    assert kept.addressable_data(0).size * config.fsdp * config.tensor == kept.size


@pytest.mark.parametrize("name", ["FSDP", pytest.param("ALL", marks=pytest.mark.slow)])
def test_the_compiler_finds_no_arrays_that_it_must_copy_whole(name: str) -> None:
    """The compiler warns of them on stderr, unless the program comes from the cache."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import {name}, compiled; compiled({name})"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rematerialization" not in done.stderr
    assert "pjrt" in done.stderr  # it would have said so

"""The update does not depend on micro-batches or devices, and it learns."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.batch import TokenBatch
from model import transformer
from model.config import ModelConfig
from model.loss import make_loss
from model.loss_config import LossConfig
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from tests.tiny import drawn
from training.config import ParallelConfig, ParamDtype
from training.devices import in_step, parallel, placing
from training.devices.devices import Devices, check_batch, find_devices
from training.update.state import TrainState
from training.update.step import CompiledStep, StepParts, train_step
from training.update.step_metrics import to_row

ROWS = 8


def batch_of(config: ModelConfig, seed: int = 0) -> TokenBatch[np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "text_tokens": rng.integers(
            2, config.text_vocab_size, (ROWS, config.text_length), np.int32
        ),
        "text_mask": np.ones((ROWS, config.text_length), bool),
        "image_tokens": rng.integers(
            0, config.image_vocab_size, (ROWS, config.image_length), np.int32
        ),
        "example_index": np.arange(ROWS, dtype=np.int32),
    }


@cache
def update(
    config: ModelConfig,
    optim: OptimConfig,
    steps: int,
    devices: int,
    accumulation_steps: int,
    dtype: str,
    param_dtype: ParamDtype,
    noise: float,
) -> tuple[Devices, Callable[[], TrainState], CompiledStep]:
    """The devices, a function that makes a new state, and the compiled update."""
    model, optimizer = transformer.build(config, dtype), make_optimizer(optim)
    empty = jnp.zeros((1, config.text_length), jnp.int32)
    places = find_devices(ParallelConfig(devices=devices))
    step = partial(
        train_step,
        StepParts(
            make_loss(
                *(model, (empty, empty == 0), config.image_vocab_size),
                LossConfig(caption_dropout=noise, token_noise=noise),
            ),
            optimizer,
            make_schedule(optim, steps),
            micro_batches=lambda rows: accumulation_steps,
            mean_over_devices=in_step.make_mean(places),
        ),
    )
    init = drawn(config)
    create = partial(TrainState.create, init, optimizer, 0, dtype, param_dtype=param_dtype)
    return places, jax.jit(create), parallel.compile_step(step, places)


def train(
    config: ModelConfig,
    *,
    steps: int = 3,
    devices: int = 1,
    accumulation_steps: int = 1,
    dtype: str = "float32",
    param_dtype: ParamDtype = "float32",
    noise: float = 0.2,
    optim: OptimConfig | None = None,
) -> tuple[TrainState, list[dict]]:
    """The state and the metrics of a few updates, with every kind of randomness on."""
    optim = optim or OptimConfig(learning_rate=1e-2, warmup_steps=1, decay_fraction=0.0)
    places, create, run = update(
        *(config, optim, steps, devices, accumulation_steps, dtype, param_dtype, noise)
    )
    state = placing.place(create(), places)
    rows = []
    for _ in range(steps):
        state, metrics = run(state, batch_of(config))
        rows.append(to_row(metrics))
    return state, rows


def assert_near(a: TrainState, b: TrainState, tolerance: float) -> None:
    difference = jax.tree.map(
        lambda x, y: jnp.square(np.asarray(x) - np.asarray(y)).sum(), a.params, b.params
    )
    size = jax.tree.map(lambda x: jnp.square(np.asarray(x)).sum(), a.params)
    relative = np.sqrt(sum(jax.tree.leaves(difference)) / sum(jax.tree.leaves(size)))
    assert relative < tolerance


@pytest.fixture
def noisy(tiny: ModelConfig) -> ModelConfig:
    return dataclasses.replace(tiny, encoder_depth=1, decoder_depth=1, dropout=0.1)


# AdamW divides by the root of tiny squares, which magnifies rounding.
SGD = OptimConfig(name="sgd", learning_rate=0.1, warmup_steps=1, decay_fraction=0.0)


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_micro_batches_equal_one_batch(noisy: ModelConfig, parts: int) -> None:
    whole, _ = train(noisy, optim=SGD)
    split, _ = train(noisy, optim=SGD, accumulation_steps=parts)
    assert_near(whole, split, 1e-6)


# test_parallel.py compares four devices with one, over more updates.
@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_many_devices_equal_one(noisy: ModelConfig, devices: int) -> None:
    one, first = train(noisy, optim=SGD)
    many, rows = train(noisy, optim=SGD, devices=devices)
    assert_near(one, many, 1e-6)
    assert rows[0]["train/loss"] == pytest.approx(first[0]["train/loss"], abs=1e-5)


def test_the_same_run_gives_the_same_bits(noisy: ModelConfig) -> None:
    """On four devices a resume in entry/test_train.py does so."""
    a = train(noisy, optim=SGD)[0]
    update.cache_clear()  # traced and compiled anew
    b = train(noisy, optim=SGD)[0]
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    [
        pytest.param("float32", "float32", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float32", marks=pytest.mark.slow),
        pytest.param("float16", "float32", marks=pytest.mark.slow),
        ("bfloat16", "bfloat16"),
    ],
)
def test_it_learns_eight_pairs_by_heart(
    tiny: ModelConfig, dtype: str, param_dtype: ParamDtype
) -> None:
    config = dataclasses.replace(tiny, dim=32, mlp_dim=64)
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=5, decay_fraction=0.5)
    _, rows = train(config, steps=80, dtype=dtype, param_dtype=param_dtype, noise=0.0, optim=optim)
    assert rows[0]["train/loss"] == pytest.approx(np.log(20), abs=0.2)
    assert rows[-1]["train/loss"] < 0.05


def test_an_overflow_in_float16_skips_the_update_and_halves_the_scale(tiny: ModelConfig) -> None:
    optimizer = make_optimizer(OptimConfig())
    state = jax.jit(partial(TrainState.create, drawn(tiny), optimizer, 0, "float16"))()
    assert state.loss_scale is not None

    def overflowing(
        params: dict, batch: Any, keys: jax.Array, context: object
    ) -> tuple[jax.Array, dict]:
        return jnp.float32(jnp.inf) * params["head"]["kernel"].sum(), {}

    step = jax.jit(
        partial(train_step, StepParts(overflowing, optimizer, make_schedule(OptimConfig(), 10)))
    )
    new, metrics = step(state, batch_of(tiny))
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, new.opt_state, state.opt_state)
    assert metrics.loss_scale.skipped == 1
    assert new.loss_scale is not None
    assert new.loss_scale.scale == state.loss_scale.scale / 2
    assert int(new.step) == 1


def test_an_uneven_batch_is_refused_with_the_numbers() -> None:
    places = find_devices(ParallelConfig(devices=4))
    with pytest.raises(
        ValueError, match="batch_size 100 is not a multiple of 4 device.* × 3 .*try 96"
    ):
        check_batch(100, places, 3)


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="parallel.devices 9 is not possible with 4 cpu"):
        find_devices(ParallelConfig(devices=9))

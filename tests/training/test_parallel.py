"""A run is the same on any devices in any arrangement; and the sharding of arrays."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from common.batch import TokenBatch
from model import transformer
from model.loss import make_choice_loss, make_eval_loss, make_loss
from model.loss_config import LossConfig
from optim.config import OptimConfig, ShampooConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from tests.spread import spread_step
from tests.tiny import TINY, drawn
from training.config import ParallelConfig
from training.devices import in_step, over_rows, parallel, placing, sharding
from training.devices.devices import check_batch, find_devices
from training.hooks import evaluate_loss
from training.update.state import TrainState
from training.update.step_metrics import numbers, to_row

ROWS, STEPS, RATE = 8, 10, 2e-3
MODEL = replace(TINY, dropout=0.1, unroll=1)
SHAMPOO = ShampooConfig(block_size=8, merge_dims=0, roots_every=3, start_step=2)
ONE = ParallelConfig(devices=1)
PMAP = ParallelConfig()
DATA = ParallelConfig(mode="mesh")
FSDP = ParallelConfig(mode="mesh", fsdp=4)
TENSOR = ParallelConfig(mode="mesh", tensor=2)
ALL = ParallelConfig(mode="mesh", fsdp=2, tensor=2)
named = partial(pytest.mark.parametrize, "config", ids=lambda c: f"{c.mode}-{c.fsdp}-{c.tensor}")


def batch_at(step: int) -> TokenBatch[np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "text_tokens": rng.integers(2, 32, (ROWS, 6), np.int32),
        "text_mask": np.ones((ROWS, 6), bool),
        "image_tokens": rng.integers(0, 20, (ROWS, 9), np.int32),
        "example_index": np.arange(ROWS, dtype=np.int32),
    }


@cache
def program(config: ParallelConfig, accumulation_steps: int = 1, name: Any = "adamw"):
    """The devices, a fresh state on them, and the update."""
    devices = find_devices(config)
    optim = OptimConfig(
        name=name, learning_rate=RATE, warmup_steps=1, decay_fraction=0.0, shampoo=SHAMPOO
    )
    model = transformer.build(MODEL)
    empty = jnp.zeros((1, 6), jnp.int32)
    loss = make_loss(
        *(model, (empty, empty == 0), 20), LossConfig(caption_dropout=0.2, token_noise=0.2)
    )
    step = spread_step(
        devices,
        loss,
        make_optimizer(optim, in_step.make_spread(devices)),
        make_schedule(optim, STEPS),
        micro_batches=lambda rows: accumulation_steps,
    )
    create = partial(TrainState.create, drawn(MODEL), make_optimizer(optim), 0)
    return devices, create, parallel.compile_step(step, devices)


def train(state: TrainState, run, first: int, last: int) -> TrainState:
    for n in range(first, last):
        state, _ = run(state, batch_at(n))
    return state


Trained = tuple[TrainState, dict[str, float]]


@cache
def trained(config: ParallelConfig, accumulation_steps: int = 1, name: Any = "adamw") -> Trained:
    """The last state, and the metrics of the first update."""
    devices, create, run = program(config, accumulation_steps, name)
    state, metrics = run(placing.create(create, devices), batch_at(0))
    return jax.device_get(train(state, run, 1, STEPS)), numbers(to_row(metrics))


def assert_alike(one: Trained, other: Trained, relative: float = 1e-5) -> None:
    assert_near(one[0], other[0], relative)
    assert other[1] == pytest.approx(one[1], rel=2e-5, abs=1e-6)


def assert_near(a: TrainState, b: TrainState, relative: float = 1e-5) -> None:
    pairs = list(zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))
    difference = np.sqrt(sum(np.square(x - y).sum() for x, y in pairs))
    assert difference <= relative * np.sqrt(sum(np.square(x).sum() for x, _ in pairs))
    assert max(np.abs(x - y).max() for x, y in pairs) <= 0.1 * RATE


@named([PMAP, FSDP, *(pytest.param(one, marks=pytest.mark.slow) for one in (DATA, TENSOR))])
def test_ten_steps_are_the_same_as_on_one_device(config: ParallelConfig) -> None:
    assert_alike(trained(ONE), trained(config))


def test_micro_batches_on_a_mesh_are_the_same_as_one_batch() -> None:
    assert_alike(trained(ONE), trained(ALL, accumulation_steps=2))


@pytest.mark.slow
@named([PMAP, DATA, FSDP, TENSOR, ALL])
def test_shampoo_spread_over_devices_is_the_same(config: ParallelConfig) -> None:
    assert_alike(trained(ONE, 1, "shampoo"), trained(config, 1, "shampoo"), 1e-4)


def test_a_run_continues_under_another_mode() -> None:
    devices, create, run = program(PMAP)
    other, _, run_other = program(FSDP)
    state = train(placing.create(create, devices), run, 0, 4)
    state = train(placing.place(jax.device_get(state), other), run_other, 4, 7)
    state = train(placing.place(jax.device_get(state), devices), run, 7, STEPS)
    assert_near(trained(ONE)[0], jax.device_get(state))


@cache
def evaluated(config: ParallelConfig, size: int, make: Any = make_eval_loss) -> float:
    """The mean loss of 13 rows, in batches of `size`."""
    devices, create, _ = program(config)
    loss = make(transformer.build(MODEL))
    rows = np.arange(13)
    parts = [batch_at(n) for n in range(2)]
    whole: Any = jax.tree.map(lambda *part: np.concatenate(part)[rows], *parts)

    def batches():
        for start in range(0, len(rows), size):
            places = start + np.arange(size)
            batch = {name: x[np.minimum(places, 12)] for name, x in whole.items()}
            batch["weight"] = np.asarray(places < 13, np.float32)
            batch["other_tokens"] = batch["text_tokens"][:, None, ::-1]
            batch["other_mask"] = batch["text_mask"][:, None]
            yield batch

    evaluate = evaluate_loss(over_rows.compile_sums(loss, devices), {"set": batches})
    return evaluate(0, placing.create(create, devices))["eval/set/loss"]


@named([PMAP, ALL, pytest.param(FSDP, marks=pytest.mark.slow)])
def test_an_evaluation_is_the_same_as_on_one_device(config: ParallelConfig) -> None:
    assert evaluated(config, 8) == pytest.approx(evaluated(ONE, 4), rel=1e-6)


@named([PMAP, pytest.param(ALL, marks=pytest.mark.slow)])
def test_wrong_captions_are_counted_as_on_one_device(config: ParallelConfig) -> None:
    found = evaluated(config, 8, make_choice_loss)
    assert found == evaluated(ONE, 4, make_choice_loss)
    assert 0 < found < 1


@named([ONE, PMAP, FSDP, ALL])
def test_each_device_evaluates_its_rows_only(config: ParallelConfig) -> None:
    devices = find_devices(config)
    seen = []

    def count(params: Any, batch: Any) -> tuple[Any, Any]:
        jax.debug.callback(lambda x: seen.append(x.shape[0]), batch["weight"], partitioned=True)
        return batch["weight"].sum(), jnp.float32(1)

    params = placing.place({"scale": np.ones(4, np.float32)}, devices)
    batch: Any = {
        "weight": np.arange(8, dtype=np.float32),
        "example_index": np.arange(8),
    }
    total, _ = over_rows.compile_sums(count, devices)(params, batch)
    jax.effects_barrier()
    assert float(total) == 28
    assert seen == [8 // devices.num_shares] * len(devices)


def test_a_state_on_a_mesh_is_sharded_and_donated() -> None:
    devices, create, run = program(FSDP)
    state = placing.create(create, devices)
    kernel = state.params["decoder"]["run0"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_data(0).size == kernel.size // 4
    new, _ = run(state, batch_at(0))
    assert kernel.is_deleted()
    new_kernel = new.params["decoder"]["run0"]["mlp"]["up"]["kernel"]
    assert new_kernel.sharding == kernel.sharding
    whole = placing.on_first_device(new.params)["decoder"]["run0"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(whole, np.asarray(new_kernel))


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/encoder/run0/attention/q/kernel", (2, 8, 16), P(None, "fsdp", "tensor")),
        ("opt_state/1/mu/decoder/run1/mlp/gate/kernel", (4, 8, 16), P(None, "fsdp", "tensor")),
        ("params/decoder/run0/cross_attention/out/kernel", (2, 16, 8), P(None, "tensor", "fsdp")),
        ("params/decoder/run0/mlp/down/kernel", (2, 16, 8), P(None, "tensor", "fsdp")),
        ("params/decoder/run0/mlp/up/bias", (2, 16), P(None, "tensor")),
        ("params/encoder/run0/mlp/mid_norm/scale", (2, 16), P(None, None)),
        ("params/text_embedding/tokens", (32, 8), P("tensor", "fsdp")),
        (
            "params/image_embedding/tokens",
            (21, 8),
            P(None, "tensor"),
        ),  # 21 rows cannot be divided evenly
        ("params/text_embedding/positions", (6, 8), P(None, "fsdp")),
        ("params/head/kernel", (8, 20), P("fsdp", "tensor")),
        ("params/encoder_norm/scale", (8,), P(None)),
        ("step", (), P()),
    ],
)
def test_arrays_are_sharded_by_the_rules(path: str, shape: tuple, spec: P) -> None:
    assert sharding.partition(path, shape, {"data": 1, "fsdp": 4, "tensor": 2}) == spec


@named([PMAP, DATA, FSDP, TENSOR])
def test_one_process_reads_every_row(config: ParallelConfig) -> None:
    np.testing.assert_array_equal(find_devices(config).rows(8), np.arange(8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ParallelConfig(fsdp=2), "pmap holds it whole .* add --parallel.mode=mesh"),
        (ParallelConfig(mode="mesh", fsdp=3), "parallel.fsdp 3 .* does not divide 4 device"),
    ],
)
def test_devices_that_make_no_mesh_are_refused(config: ParallelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_devices(config)


def test_devices_that_share_rows_do_not_divide_the_batch() -> None:
    check_batch(6, find_devices(TENSOR), 3)
    with pytest.raises(ValueError, match="7 is not a multiple of 2 .* × 3 .*try 6"):
        check_batch(7, find_devices(TENSOR), 3)


def test_the_description_names_the_axes() -> None:
    assert find_devices(ALL).describe() == "4 × cpu as 1 data × 2 fsdp × 2 tensor"

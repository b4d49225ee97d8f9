"""The compiled update holds its state once, and the activations of one micro-batch at a time."""

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.batch import TokenBatch
from config import Config
from drawing.run_grids import have_room_to_draw
from model import transformer
from model.loss import make_loss
from model.loss_config import LossConfig
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from tests.spread import spread_step
from tests.tiny import TINY
from training.config import ParallelConfig
from training.devices import fitting, in_step, parallel, placing
from training.devices.devices import find_devices
from training.update.state import TrainState

# Most of its memory is weights, as in a large model.
MODEL = replace(
    TINY,
    dim=64,
    mlp_dim=96,
    num_heads=4,
    text_vocab_size=256,
    image_vocab_size=256,
    unroll=1,
    remat="layer",
    dropout=0.1,
)
ONE = ParallelConfig(devices=1)
PMAP = ParallelConfig()
FSDP = ParallelConfig(mode="mesh", fsdp=4)
FEW = 4096
named = partial(pytest.mark.parametrize, "config", ids=lambda c: f"{c.mode}-{c.devices}-{c.fsdp}")


def bytes_of(tree: Any) -> int:
    """Bytes of a tree on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


@cache
def measured(
    config: ParallelConfig, rows: int, micro_batches: int, clip_norm: float = 1.0
) -> tuple[Any, Any, int]:
    """The compiled update's memory on a device, the shapes of its state, and the bytes of the
    device's part of the batch."""
    devices = find_devices(config)
    optim = OptimConfig(warmup_steps=1, clip_norm=clip_norm)
    model = transformer.build(MODEL)
    empty = jnp.zeros((1, MODEL.text_length), jnp.int32)
    step = spread_step(
        devices,
        make_loss(model, (empty, empty == 0), 256, LossConfig(0.0)),
        make_optimizer(optim, in_step.make_spread(devices)),
        make_schedule(optim, 10),
        micro_batches=lambda rows: micro_batches,
    )
    create = partial(TrainState.create, model.init, make_optimizer(optim), 0)
    state = placing.shapes(create, devices)
    batch: TokenBatch[np.ndarray] = {
        "text_tokens": np.zeros((rows, MODEL.text_length), np.int32),
        "text_mask": np.ones((rows, MODEL.text_length), bool),
        "image_tokens": np.zeros((rows, MODEL.image_length), np.int32),
        "example_index": np.arange(rows, dtype=np.int32),
    }
    found = parallel.lower_step(step, devices, state, batch).compile().memory_analysis()
    return found, state, sum(x.nbytes for x in jax.tree.leaves(batch)) // devices.num_shares


@named([ONE, pytest.param(PMAP, marks=pytest.mark.slow), FSDP])
def test_the_state_is_held_once_and_given_on(config: ParallelConfig) -> None:
    found, state, batch = measured(config, 16, 2)
    state_bytes = bytes_of(state)
    sizes = (4 * leaf.size for leaf in jax.tree.leaves(state.params))
    assert state_bytes > 3 * sum(sizes) / config.fsdp
    assert found.argument_size_in_bytes == state_bytes + batch
    assert found.alias_size_in_bytes == state_bytes
    assert found.output_size_in_bytes - state_bytes < FEW  # metrics


@named([ONE, *(pytest.param(one, marks=pytest.mark.slow) for one in (FSDP, PMAP))])
def test_memory_grows_with_the_micro_batch_only(config: ParallelConfig) -> None:
    few, _, _ = measured(config, 16, 2)
    many, _, _ = measured(config, 32, 4)
    assert many.temp_size_in_bytes - few.temp_size_in_bytes < FEW


@pytest.mark.parametrize(("clip_norm", "most"), [(0.0, 1.5), (1.0, 2.1)])
def test_one_device_holds_gradients_once_and_once_more_to_clip_them(
    clip_norm: float, most: float
) -> None:
    """Activations are added; one row has few."""
    found, state, _ = measured(ONE, 1, 1, clip_norm)
    assert found.temp_size_in_bytes < most * bytes_of(state.params)


def test_weights_that_one_device_cannot_hold_are_not_drawn_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(model=MODEL)
    model, size = transformer.build(MODEL), transformer.count_params(MODEL)
    need = (
        2 * 4 * size + 3 * 4 * size // 4
    )  # two whole copies, and a quarter of weights and AdamW's state
    for config_of_devices, room, fits in [
        (FSDP, 1.1 * need, True),
        (FSDP, 0.9 * need, False),
        (PMAP, 0.0, True),
    ]:
        monkeypatch.setattr(fitting, "device_memory", lambda devices, room=room: int(room))
        assert have_room_to_draw(config, model, find_devices(config_of_devices)) == fits
    output = capsys.readouterr().out
    assert output.startswith("no picture grids: whole weights")
    assert output.count("\n") == 1

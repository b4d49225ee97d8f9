"""Metrics do not depend on how a batch is divided among micro-batches and devices."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.loss import make_loss
from model.loss_config import LossConfig as TextLossConfig
from model.near_codes import soft_targets
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.spread import spread_step
from tests.tiny import ONE_LEVEL_VQGAN, TINY, drawn, first_vqgan
from training.config import ParallelConfig, ParallelMode
from training.devices import parallel, placing
from training.devices.devices import find_devices
from training.update.loss import Loss
from training.update.state import TrainState
from training.update.step_metrics import numbers, to_row
from vqgan import objective
from vqgan.autoencoder import build
from vqgan.config import LossConfig

ROWS = 8
Way = tuple[int, int, ParallelMode]
"""Micro-batches, devices and mode."""
MODEL = replace(TINY, encoder_depth=1, decoder_depth=1)
CASES = {"transformer": "train/cross_entropy", "vqgan": "train/perplexity"}


def of_transformer() -> tuple[Loss, Callable[[Any], Any], Any]:
    model, random = transformer.build(MODEL), np.random.default_rng(0)
    empty = jnp.zeros((1, TINY.text_length), jnp.int32)
    config = TextLossConfig(0.2, 0.2, near_codes=0.2, label_smoothing=0.1, z_loss=1e-2)
    targets = soft_targets(jnp.linspace(0, 1, 20)[:, None], config.near_codes)
    loss = make_loss(model, (empty, empty == 0), 20, config, targets)
    batch = {
        "text_tokens": random.integers(2, 32, (ROWS, TINY.text_length), np.int32),
        "text_mask": np.ones((ROWS, TINY.text_length), bool),
        "image_tokens": random.integers(0, 20, (ROWS, TINY.image_length), np.int32),
    }
    return loss, drawn(MODEL), batch


def of_vqgan() -> tuple[Loss, Callable[[Any], Any], Any]:
    autoencoder, random = build(ONE_LEVEL_VQGAN), np.random.default_rng(0)
    pixels = random.integers(0, 255, (ROWS, 8, 8, 3), dtype=np.uint8)
    loss = objective.make_loss(autoencoder, LossConfig(), warmup_steps=0)
    params = first_vqgan(ONE_LEVEL_VQGAN)
    return loss, lambda key: params, {"pixels": pixels}


def metrics_of(name: str, parts: int, devices: int, mode: ParallelMode) -> dict[str, float]:
    loss, init, batch = of_vqgan() if name == "vqgan" else of_transformer()
    batch["example_index"] = np.arange(ROWS, dtype=np.int32)
    places = find_devices(ParallelConfig(devices=devices, mode=mode))
    optimizer = make_optimizer(OptimConfig())
    step = spread_step(
        places, loss, optimizer, lambda step: jnp.float32(1e-3), micro_batches=lambda rows: parts
    )
    state = placing.create(partial(TrainState.create, init, optimizer, 0), places)
    _, metrics = parallel.compile_step(step, places)(state, batch)
    return numbers(to_row(metrics))


# test_parallel.py compares the transformer's metrics of its first update on all kinds of devices.
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("vqgan", (2, 2, "pmap")),
        pytest.param("transformer", (2, 2, "mesh"), marks=pytest.mark.slow),
        pytest.param("transformer", (4, 1, "pmap"), marks=pytest.mark.slow),
    ],
)
def test_metrics_are_those_of_the_whole_batch(name: str, way: Way) -> None:
    whole = metrics_of(name, 1, 1, "pmap")
    assert CASES[name] in whole
    assert metrics_of(name, *way) == pytest.approx(whole, rel=2e-5, abs=1e-6)

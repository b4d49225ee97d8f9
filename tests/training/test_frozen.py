"""Fine-tuning a part: frozen parameters cost no gradient, and norms are of the trained part."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.trees import map_named
from model import transformer
from model.config import ModelConfig
from model.loss import make_loss
from model.loss_config import LossConfig
from optim.averaging import init_ema, make_ema
from optim.config import OptimConfig
from optim.freezing import make_is_trained
from optim.optimizers import make_optimizer
from optim.paths import matches
from tests.tiny import drawn
from tests.training.test_step import batch_of
from training.config import ParallelConfig, TrainingConfig
from training.devices import in_step, parallel, placing
from training.devices.devices import find_devices
from training.update.loss import LossContext
from training.update.observables import Observable, tensor_norms, unpack
from training.update.state import TrainState
from training.update.step import Step, StepParts, train_step

OPTIM = OptimConfig(name="sgd", learning_rate=0.1, warmup_steps=0, clip_norm=0.0)
PARTS = ("head/*", "text_embedding/*", "decoder/*/mlp/*")


def compose(
    config: ModelConfig,
    optim: OptimConfig,
    is_held: bool = False,
    micro_batches: int = 1,
    devices: int = 1,
) -> tuple[Step, Callable[[], TrainState]]:
    """An update, and a function that creates its state. `is_held`: the loss stops the gradient of
    frozen parameters; this defines the cost that a frozen part should have."""
    model = transformer.build(config)
    empty = jnp.zeros((1, config.text_length), jnp.int32)
    plain = LossConfig(caption_dropout=0.0)
    inner = make_loss(model, (empty, empty == 0), config.image_vocab_size, plain)

    def held(name: str, leaf: Any) -> Any:
        return leaf if matches(name, optim.train_only) else jax.lax.stop_gradient(leaf)

    def loss(params: Any, batch: Any, keys: Any, context: LossContext) -> Any:
        return inner(map_named(held, params) if is_held else params, batch, keys, context)

    optimizer = make_optimizer(optim)
    step = partial(
        train_step,
        StepParts(
            loss,
            optimizer,
            lambda step: jnp.float32(0.1),
            micro_batches=lambda rows: micro_batches,
            mean_over_devices=in_step.make_mean(find_devices(ParallelConfig(devices=devices))),
            settings=TrainingConfig(on_spike="off"),
            observables=[Observable(1, tensor_norms)],
            update_ema=make_ema(0.9),
            is_trained=make_is_trained(optim.freeze, optim.train_only),
        ),
    )
    init = drawn(config)
    return step, lambda: TrainState.create(init, optimizer, 0, init_ema=init_ema)


def cost(step: Step, create: Callable[[], TrainState], config: ModelConfig) -> tuple[float, int]:
    """FLOPs, and bytes of temporaries, of a compiled update."""
    shapes = jax.eval_shape(create)
    compiled = jax.jit(step, donate_argnums=0).lower(shapes, batch_of(config)).compile()
    costs: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    return costs["flops"], memory.temp_size_in_bytes


@cache
def cost_of_all(config: ModelConfig) -> tuple[float, int]:
    """The cost of an update of every parameter."""
    return cost(*compose(config, OPTIM), config)


@cache
def update_of_all(config: ModelConfig) -> tuple[TrainState, Any]:
    """An update of every parameter, and its metrics."""
    step, create = compose(config, OPTIM)
    return jax.jit(step)(jax.jit(create)(), batch_of(config))


@pytest.mark.parametrize(
    "pattern", [PARTS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in PARTS[1:])]
)
def test_a_frozen_part_costs_no_gradient(tiny: ModelConfig, pattern: str) -> None:
    config = dataclasses.replace(tiny, dim=32, mlp_dim=64, unroll=1)
    part = dataclasses.replace(OPTIM, train_only=(pattern,))
    whole_flops, whole_bytes = cost_of_all(config)
    flops, size = cost(*compose(config, part), config)
    least_flops, least_bytes = cost(*compose(config, part, is_held=True), config)
    assert flops <= least_flops * 1.001 < whole_flops
    assert size <= least_bytes * 1.01
    assert size < whole_bytes


WAY = (PARTS[2], 2)
OTHERS = [(part, count) for part in PARTS for count in (1, 2) if (part, count) != WAY]


@pytest.mark.parametrize(
    ("pattern", "micro_batches"),
    [WAY, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_the_gradient_s_norm_is_that_of_the_trained_part_and_the_rest_keeps_its_bits(
    tiny: ModelConfig, pattern: str, micro_batches: int
) -> None:
    part = dataclasses.replace(OPTIM, train_only=(pattern,))
    step, create = compose(tiny, part, micro_batches=micro_batches, devices=2)
    places = find_devices(ParallelConfig(devices=2))
    old = jax.jit(create)()
    new, metrics = parallel.compile_step(step, places)(
        placing.place(jax.tree.map(jnp.copy, old), places), batch_of(tiny)
    )
    everything, all_metrics = update_of_all(tiny)
    norms, expected = unpack(metrics.observed), unpack(all_metrics.observed)
    names = [name for name in norms if name.startswith("norm/")]
    assert len(names) > 3 * len(jax.tree.leaves(old.params)) - 1
    is_trained = {name: matches(name.split("/", 2)[2], [pattern]) for name in names}
    own = [expected[name] for name in names if name.startswith("norm/grad/") and is_trained[name]]
    np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm(own), rtol=1e-5)
    for name in names:
        if name.startswith("norm/param/") or is_trained[name]:
            np.testing.assert_allclose(norms[name], expected[name], rtol=1e-4, atol=1e-7)
        else:
            assert norms[name] == 0

    def compare(name: str, before: Any, after: Any, trained: Any, average: Any) -> None:
        if matches(name, [pattern]):
            np.testing.assert_allclose(after, trained, rtol=1e-5, atol=1e-6)
            assert not np.array_equal(after, before)
        else:
            np.testing.assert_array_equal(after, before)
            np.testing.assert_array_equal(average, before)

    map_named(compare, old.params, new.params, everything.params, new.ema)

"""SOAP and schedule-free AdamW give the same updates on several devices as on one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from optim.averaging import init_ema, make_average
from optim.config import OptimConfig, SoapConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from optim.soap import soap
from tests.spread import spread_step
from tests.training.test_parallel_shampoo import batch_at, distance, init, loss
from training.config import ParallelConfig
from training.devices import in_step, parallel, placing
from training.devices.devices import find_devices
from training.update.state import TrainState

STEPS, RATE = 6, 2e-3
ONE, PMAP = ParallelConfig(devices=1), ParallelConfig()
MESH = ParallelConfig(mode="mesh", fsdp=2, tensor=2)


def trained(config: ParallelConfig) -> TrainState:
    """The state after some updates of schedule-free AdamW."""
    optim = OptimConfig("schedule_free", RATE, warmup_steps=0, decay_fraction=0.0)
    devices, optimizer = find_devices(config), make_optimizer(optim)
    step = spread_step(
        devices, loss, optimizer, make_schedule(optim, STEPS), update_ema=make_average(optim)
    )
    create = partial(TrainState.create, init, optimizer, 0, init_ema=init_ema)
    state = placing.create(create, devices)
    update = parallel.compile_step(step, devices)
    for n in range(STEPS):
        state, _ = update(state, batch_at(n))
    return jax.device_get(state)


def test_schedule_free_updates_and_averages_are_the_same_on_any_devices() -> None:
    alone = trained(ONE)
    for config in (PMAP, MESH):
        found = trained(config)
        for part in ("params", "ema"):
            own, other = (state._replace(params=getattr(state, part)) for state in (found, alone))
            relative, largest = distance(own, other)
            assert relative <= 1e-4
            assert largest <= 0.1 * RATE


SHAPES = {
    "text_embedding": {"tokens": (20, 16)},
    "encoder": {"run0": {"mlp": {"up": {"kernel": (2, 16, 24)}}}},
    "head": {"kernel": (16, 16)},
}


def gradients(n: int) -> Any:
    """Gradients that are bit-equal on every device: rounding differences would be amplified, as a
    basis turns by far more than the rounding of its gradients."""
    rng = np.random.default_rng(n)
    draw = lambda shape: np.float32(rng.normal(size=shape))  # noqa: E731
    return jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def descend(config: ParallelConfig, finish: Callable[[Any], Any]) -> Any:
    """The last of several SOAP directions, with the jobs shared by those devices. `finish` receives
    the final state."""
    devices = find_devices(config)
    rule = soap(SoapConfig(block_size=8, basis_every=2), spread=in_step.make_spread(devices))
    update: Callable[..., Any] = rule.update
    if devices.mode == "pmap":
        everywhere = PartitionSpec()
        update = jax.shard_map(
            update,
            mesh=devices.lane,
            in_specs=everywhere,
            out_specs=everywhere,
            check_vma=False,
        )
    update, direction = jax.jit(update), None
    make = lambda: (rule.init(jax.tree.map(jnp.asarray, gradients(0))),)  # noqa: E731
    (state,) = placing.create(make, devices)
    for n in range(STEPS):
        direction, state = update(placing.place(gradients(n), devices), state)
        (state,) = placing.place((state,), devices)
    finish(state)
    return jax.device_get(direction)


def test_soap_s_directions_are_the_same_on_any_devices_and_its_matrices_are_sharded() -> None:
    nothing = lambda state: None  # noqa: E731
    alone = descend(ONE, nothing)
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)

    def check(state: Any) -> None:
        kept = state.bases["encoder"]["run0"]["mlp"]["up"]["kernel"][0][0]
        assert kept.addressable_data(0).size * 4 == kept.size

    jax.tree.map(close, descend(PMAP, nothing), alone)
    jax.tree.map(close, descend(MESH, check), alone)

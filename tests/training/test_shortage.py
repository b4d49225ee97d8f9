"""Shortage of memory is refused before allocation if it is foreseen, else reported in one line."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from training.config import ParallelConfig
from training.devices.devices import find_devices
from training.devices.shortage import check_room, explain_out_of_memory


def shapes(*shape: int) -> dict[str, jax.ShapeDtypeStruct]:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"a": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here)}


@pytest.mark.parametrize(
    ("state", "batch", "message"),
    [
        ((1000, 25), (10, 10), ""),
        ((1000, 26), (10, 10), r"take 0.000 GB of each device, which has 0.000 GB; make the model"),
        ((10**9, 10**9), (10, 10), r"take 4,000,000,000.000 GB of each device"),
        ((10, 10), (10**9, 300), r"batch_size 1,000,000,000 takes 1,200.000 GB of this machine"),
    ],
)
def test_sizes_are_held_against_the_memory(
    state: tuple[int, ...], batch: tuple[int, ...], message: str
) -> None:
    devices = find_devices(ParallelConfig(devices=1))
    if not message:
        check_room(shapes(*state), shapes(*batch), devices, room=100_000)
        return
    with pytest.raises(ValueError, match=message):
        check_room(shapes(*state), shapes(*batch), devices, room=100_000)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (0, r"out of memory: 8 example\(s\) at a time on each device do not fit; .*=auto finds"),
        (5, r"out of memory: 8 example\(s\) at a time on each device did fit in 5 update\(s\)"),
    ],
)
def test_memory_that_runs_out_is_one_line_with_what_did_fit(made: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as found, explain_out_of_memory(8, lambda: made):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes")
    assert "\n" not in str(found.value)


def test_real_memory_of_xla_is_reported() -> None:
    def grow() -> Any:
        return jax.jit(lambda: jnp.ones((1 << 46,), jnp.int8))().block_until_ready()

    with (
        pytest.raises(ValueError, match="out of memory: 1 example"),
        explain_out_of_memory(1, lambda: 0),
    ):
        grow()


def test_another_error_is_not_taken_for_it() -> None:
    with pytest.raises(KeyError), explain_out_of_memory(8, lambda: 0):
        raise KeyError("a")

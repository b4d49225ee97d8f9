"""Functions of parameters and rows over all devices, outside of the update: encoding, drawing,
evaluation."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from common.batch import HostBatch
from training.devices.devices import AXIS, Devices
from training.devices.in_step import with_gathered_params
from training.devices.placing import global_batch
from training.update.loss import B

T = TypeVar("T")


def split_over_devices(function: Callable[..., T], devices: Devices) -> Callable[..., T]:
    """`function(params, *rows)` with equal shares of the rows on every device, params on each.

    Every device runs the program of its own share, so a row's result does not depend on the number
    of devices.
    """
    if len(devices) == 1:
        return function
    replicated, split = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    def run(params: PyTree, *rows: object) -> T:
        return jax.shard_map(
            lambda params, rows: function(params, *rows),
            mesh=devices.lane,
            in_specs=(replicated, split),
            out_specs=split,
            check_vma=False,
        )(params, rows)

    return run


def compile_sums(
    function: Callable[[PyTree, B], T], devices: Devices
) -> Callable[[PyTree, HostBatch], T]:
    """`function(params, batch)`, which sums over the rows of a batch, as a function of placed
    parameters and this process's rows (`Devices.rows`). Every device sums over the rows that it
    holds, and all processes get the sums over all rows."""
    replicated = PartitionSpec()
    if devices.mode == "pmap":
        summed = jax.shard_map(
            lambda params, batch: jax.lax.psum(function(params, batch), AXIS),
            mesh=devices.lane,
            in_specs=(replicated, PartitionSpec(AXIS)),
            out_specs=replicated,
            check_vma=False,
        )
        compiled = jax.jit(summed)
    else:
        gathered = with_gathered_params(function, devices)
        compiled = jax.jit(gathered, out_shardings=NamedSharding(devices.mesh, replicated))
    return lambda params, batch: compiled(params, global_batch(batch, devices))

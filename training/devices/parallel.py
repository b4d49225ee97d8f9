"""Parallelism: one update over all devices, by pmap or on a mesh. Only this folder knows of either;
other code sees one batch and one state.

pmap shards the rows of a batch over the devices and replicates the state. A mesh has three axes,
and shards the state over two of them by the rules in training/devices/sharding.py.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from common.batch import Batch, HostBatch
from training.devices.devices import AXIS, Devices
from training.devices.placing import put_rows
from training.update.state import TrainState
from training.update.step import CompiledStep, Step
from training.update.step_metrics import StepMetrics


def compile_step(step: Step, devices: Devices) -> CompiledStep:
    """The compiled update over all devices: (state, this process's rows of the batch) → (new state,
    metrics). `Devices.rows` says which rows are a process's.

    The state has no device axis, so a checkpoint has the same layout for any number of devices. The
    memory of the old state is reused (donated).
    """
    if devices.mode == "mesh":
        return _compile_mesh(step, devices)
    return _compile_pmap(step, devices) if jax.process_count() == 1 else _compile_map(step, devices)


def _compile_pmap(step: Step, devices: Devices) -> CompiledStep:
    """Data parallelism in one process: the state is replicated."""
    mapped = _map(step, devices)
    return lambda state, batch: mapped(state, deal(batch, devices))


def _map(step: Step, devices: Devices) -> Any:  # jax has no public type for it
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(devices.devices),
        donate_argnums=(0,),
    )


def deal(batch: HostBatch, devices: Devices) -> Batch:
    """This process's rows in the form that the program of `lower_step` takes."""
    if devices.mode == "mesh":
        return put_rows(batch, devices)
    return jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)


def lower_step(
    step: Step,
    devices: Devices,
    state: TrainState,
    batch: Batch,
) -> jax.stages.Lowered:
    """The program of `compile_step`, lowered; its compiled form reports its memory. Of the state
    and the whole batch only the shapes are used."""
    parts: tuple[int, ...] = ()
    if devices.mode == "mesh":
        mapped = jit_step(step, devices, state)
    elif jax.process_count() == 1:
        mapped, parts = _map(step, devices), (len(devices),)
    else:
        mapped = _map_globally(step, devices)

    def of_step(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (*parts, one.shape[0] // int(np.prod(parts)), *one.shape[1:])
        return jax.ShapeDtypeStruct(shape, one.dtype)

    return mapped.lower(state, jax.tree.map(of_step, batch))


def _compile_map(step: Step, devices: Devices) -> CompiledStep:
    mapped = _map_globally(step, devices)
    return lambda state, batch: mapped(state, put_rows(batch, devices))


def _map_globally(step: Step, devices: Devices) -> jax.stages.Wrapped:
    """Data parallelism in several processes, by shard_map. pmap would return arrays of single
    processes, which cannot be written to one checkpoint."""
    return jax.jit(
        jax.shard_map(
            step,
            mesh=devices.lane,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        ),
        donate_argnums=0,
    )


def _compile_mesh(step: Step, devices: Devices) -> CompiledStep:
    compiled: jax.stages.Wrapped | None = None

    def run(state: TrainState, batch: HostBatch) -> tuple[TrainState, StepMetrics]:
        nonlocal compiled
        if compiled is None:
            compiled = jit_step(step, devices, state)
        return compiled(state, put_rows(batch, devices))

    return run


def jit_step(step: Step, devices: Devices, state: TrainState) -> jax.stages.Wrapped:
    """The jitted update on a mesh, for states with the shardings of `state` (arrays or shapes)."""
    own = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = NamedSharding(devices.mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(own, devices.rows_sharding),
        out_shardings=(own, whole),
        donate_argnums=0,
    )

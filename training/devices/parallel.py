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
from training.devices.placing import global_batch
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
        return _compile_on_mesh(step, devices)
    if jax.process_count() == 1:
        program = _pmap(step, devices)
        return lambda state, batch: program(state, arrange_rows(batch, devices))
    program = _shard_map(step, devices)
    return lambda state, batch: program(state, global_batch(batch, devices))


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
        program = _jit(step, devices, state)
    elif jax.process_count() == 1:
        program, parts = _pmap(step, devices), (len(devices),)
    else:
        program = _shard_map(step, devices)

    def argument(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (*parts, leaf.shape[0] // int(np.prod(parts)), *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return program.lower(state, jax.tree.map(argument, batch))


def arrange_rows(batch: HostBatch, devices: Devices) -> Batch:
    """This process's rows as the argument of the program of `lower_step`."""
    if devices.mode == "mesh":
        return global_batch(batch, devices)
    return jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)


def _pmap(step: Step, devices: Devices) -> Any:  # jax has no public type for it
    """Data parallelism in one process: the state is replicated."""
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(devices.devices),
        donate_argnums=(0,),
    )


def _shard_map(step: Step, devices: Devices) -> jax.stages.Wrapped:
    """Data parallelism in several processes. pmap would return arrays of single processes, which
    cannot be written to one checkpoint."""
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


def _compile_on_mesh(step: Step, devices: Devices) -> CompiledStep:
    """The update on a mesh. It is jitted at the first call, for the shardings of that state."""
    program: jax.stages.Wrapped | None = None

    def run(state: TrainState, batch: HostBatch) -> tuple[TrainState, StepMetrics]:
        nonlocal program
        if program is None:
            program = _jit(step, devices, state)
        return program(state, global_batch(batch, devices))

    return run


def _jit(step: Step, devices: Devices, state: TrainState) -> jax.stages.Wrapped:
    """The jitted update on a mesh, for states with the shardings of `state` (arrays or shapes)."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    replicated = NamedSharding(devices.mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(shardings, devices.rows_sharding),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )

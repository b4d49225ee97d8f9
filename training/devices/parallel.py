"""Parallelism: one update over all devices, by pmap or on a mesh. Only this folder knows of either;
other code sees one batch and one state.

pmap shards the rows of a batch over the devices and replicates the state. A mesh has three axes,
and shards the state over two of them by the rules in training/devices/sharding.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from common.batch import Batch, HostBatch
from common.trees import is_stacked, map_named
from optim.spread import Spread, over_axis
from training.devices import sharding
from training.devices.devices import AXIS, Devices
from training.update.loss import B
from training.update.state import TrainState
from training.update.step import CompiledStep, Step
from training.update.step_metrics import StepMetrics

T = TypeVar("T")


def count_micro_batches(devices: Devices, size: int) -> Callable[[int], int]:
    """A function from the number of rows that a step gets to the number of micro-batches, of `size`
    examples per device. With pmap a step gets one device's rows, on a mesh the whole batch."""
    rows = size * (1 if devices.mode == "pmap" else devices.num_shares)
    return lambda seen: max(seen // rows, 1)  # a rollback may reach smaller batches of the past


def mean_over(devices: Devices) -> Callable[[PyTree], PyTree]:
    """A function from a tree to its mean over the devices, for use inside a step of `compile_step`.

    On a mesh the step is one program over the whole batch, so its means are over all devices
    already. There the tree is constrained to the parameters' sharding, so that the optimizer's
    sharding does not spread to the activations.
    """
    if devices.mode == "pmap" and len(devices) == 1:
        return lambda tree: tree  # with a pmean XLA would hold the gradients twice
    if devices.mode == "pmap":
        return lambda tree: jax.lax.pmean(tree, AXIS)
    return lambda tree: jax.lax.with_sharding_constraint(tree, shardings(tree, devices))


def spread(devices: Devices) -> Spread:
    """Functions with which an optimizer distributes jobs over the devices, inside a step. On a mesh
    the jobs enter and leave in the state's sharding, and no device holds all of them. A gradient
    that needs another sharding is all-gathered first."""
    if devices.mode == "pmap":
        return over_axis(AXIS, len(devices))
    mesh = devices.mesh
    everywhere = PartitionSpec(sharding.JOBS[-1][0])

    def move(jobs: jax.Array, ways: Iterable[PartitionSpec]) -> jax.Array:
        for way in ways:
            jobs = jax.lax.with_sharding_constraint(jobs, NamedSharding(mesh, way))
        return jobs

    def back(result: jax.Array) -> jax.Array:
        return move(result, reversed(sharding.job_ways(result.shape, mesh.shape)[:-1]))

    def deal(work: Callable[[jax.Array], PyTree], jobs: jax.Array) -> PyTree:
        jobs = move(jobs, sharding.job_ways(jobs.shape, mesh.shape))
        own = jax.shard_map(
            work, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
        return jax.tree.map(back, own(jobs))

    return Spread(len(devices), deal, lambda array: move(array, [PartitionSpec()]))


def gather_before(loss: Callable[..., T], devices: Devices) -> Callable[..., T]:
    """`loss`, with matrices outside of the stacks (such as embeddings) all-gathered over `fsdp`
    first, and the batch constrained to its sharding. Otherwise XLA may carry the sharding of an
    embedding into the activations, and copy them whole ("involuntary full rematerialization"). The
    layers of a stack are all-gathered one by one, by the scan."""
    if devices.mode == "pmap":
        return loss
    sizes = {**devices.mesh.shape, sharding.FSDP: 1}

    def together(path: str, leaf: jax.Array) -> jax.Array:
        if is_stacked(path):
            return leaf
        spec = sharding.partition(path, leaf.shape, sizes)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(devices.mesh, spec))

    def gathered(params: PyTree, batch: Batch, *more: object) -> T:
        params = map_named(together, params)
        batch = jax.lax.with_sharding_constraint(batch, devices.rows_sharding)
        return loss(params, batch, *more)

    return gathered


def shardings(tree: PyTree, devices: Devices) -> PyTree[NamedSharding]:
    """The sharding of each leaf of a state or of parameters."""
    if devices.mode == "pmap":
        whole = NamedSharding(devices.lane, PartitionSpec())
        return jax.tree.map(lambda _: whole, tree)
    mesh = devices.mesh
    return map_named(
        lambda path, leaf: NamedSharding(mesh, sharding.partition(path, leaf.shape, mesh.shape)),
        tree,
    )


def shapes(make: Callable[[], T], devices: Devices) -> T:
    """The shapes, dtypes and shardings of `create(make, devices)`; no memory is allocated."""
    found = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own),
        found,
        shardings(found, devices),
    )


def place(tree: T, devices: Devices) -> T:
    """The state or the parameters, copied to the devices in their shardings."""
    return jax.device_put(tree, shardings(tree, devices))


def create(make: Callable[[], T], devices: Devices) -> T:
    """The result of `make()`, created sharded: no device ever holds a whole sharded array."""
    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make), devices))()


def on_first_device(tree: T) -> T:
    """Fully replicated copies on this process's first device. Replicated arrays are returned as
    they are. Sharded ones are all-gathered one at a time, so the extra peak memory is one whole
    tree there and one array elsewhere. Collective: every process must call it."""

    def first(leaf: Any) -> jax.Array:
        if not leaf.sharding.is_fully_replicated:
            whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
            leaf = jax.jit(lambda x: x, out_shardings=whole)(leaf).block_until_ready()
        return leaf.addressable_data(0)

    return jax.tree.map(first, tree)


def deal_rows(function: Callable[..., T], devices: Devices) -> Callable[..., T]:
    """`function(params, *rows)` with equal shares of the rows on every device, params on each.

    Every device runs the program of its own share, so a row's result does not depend on the number
    of devices.
    """
    if len(devices) == 1:
        return function
    everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    def run(params: PyTree, *rows: object) -> T:
        return jax.shard_map(
            lambda params, rows: function(params, *rows),
            mesh=devices.lane,
            in_specs=(everywhere, dealt),
            out_specs=dealt,
            check_vma=False,
        )(params, rows)

    return run


def compile_sums(
    function: Callable[[PyTree, B], T], devices: Devices
) -> Callable[[PyTree, HostBatch], T]:
    """`function(params, batch)`, which sums over the rows of a batch, as a function of placed
    parameters and this process's rows (`Devices.rows`). Every device sums over the rows that it
    holds, and all processes get the sums over all rows."""
    everywhere = PartitionSpec()
    if devices.mode == "pmap":
        dealt = jax.shard_map(
            lambda params, batch: jax.lax.psum(function(params, batch), AXIS),
            mesh=devices.lane,
            in_specs=(everywhere, PartitionSpec(AXIS)),
            out_specs=everywhere,
            check_vma=False,
        )
        compiled = jax.jit(dealt)
    else:
        held = gather_before(function, devices)
        whole = NamedSharding(devices.mesh, everywhere)
        compiled = jax.jit(held, out_shardings=whole)
    return lambda params, batch: compiled(params, put_rows(batch, devices))


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


def put_rows(batch: HostBatch, devices: Devices) -> Batch[jax.Array]:
    """The global batch, assembled from the rows of each process."""
    there = devices.rows_sharding
    if jax.process_count() == 1:
        return jax.device_put(batch, there)
    parts = len(devices.rows(devices.num_shares))  # this process's; `tensor` may span processes
    whole = len(batch["example_index"]) * devices.num_shares // parts
    places = devices.rows(whole)

    def put(local: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            rows = np.arange(whole)[index[0]]
            return local[np.searchsorted(places, rows)]

        return jax.make_array_from_callback((whole, *local.shape[1:]), there, part)

    return jax.tree.map(put, batch)

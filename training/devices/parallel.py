"""Devices. The only file that knows pmap and meshes: everything else sees one batch and one state.

pmap shards the batch's rows over the devices and replicates the state. mesh has three axes, and
shards the state over two of them by the rules of training/devices/sharding.py.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from optim.spread import Spread, over_axis
from training.devices import sharding
from training.devices.devices import AXIS, Devices
from training.update.gradients import Batch
from training.update.state import TrainState
from training.update.step import Observed, Step
from trees import is_stacked, map_named

T = TypeVar("T")
HostBatch = dict[str, np.ndarray]
"""This process's rows of a batch, by what they are."""
CompiledStep = Callable[[TrainState, HostBatch], tuple[TrainState, Observed]]
"""(state, this process's rows of the batch) → (new state, metrics)"""


def count_micro_batches(devices: Devices, size: int) -> Callable[[int], int]:
    """A function from rows of a batch, as the step sees them, to the number of micro-batches of
    `size` examples per device. In pmap a step sees one device's rows, on a mesh all."""
    rows = size * (1 if devices.mode == "pmap" else devices.num_shares)
    return lambda seen: max(seen // rows, 1)  # a rollback may come to batches of before a resume


def mean_over(devices: Devices) -> Callable[[PyTree], PyTree]:
    """The mean over the devices, for use inside a step that `compile_step` compiles. On a mesh the
    step is one program that sees the whole batch, so its means are over all devices already. They
    are constrained to the parameters' sharding, so that the optimizer's sharding does not reach the
    activations."""
    if devices.mode == "pmap" and len(devices) == 1:
        return lambda tree: tree  # XLA would hold the gradients twice, before and after
    if devices.mode == "pmap":
        return lambda tree: jax.lax.pmean(tree, AXIS)
    return lambda tree: jax.lax.with_sharding_constraint(tree, shardings(tree, devices))


def spread(devices: Devices) -> Spread:
    """Functions by which an optimizer spreads jobs over the devices, inside such a step. On a mesh
    the jobs come and go sharded as the state is, and no device ever holds all of them. A gradient
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

    def deal(work: Callable[[jax.Array], Any], jobs: jax.Array) -> Any:
        jobs = move(jobs, sharding.job_ways(jobs.shape, mesh.shape))
        own = jax.shard_map(
            work, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
        return jax.tree.map(back, own(jobs))

    return Spread(len(devices), deal, lambda array: move(array, [PartitionSpec()]))


def gather_before(loss: Callable[..., Any], devices: Devices) -> Callable[..., Any]:
    """`loss` with embeddings and other matrices outside of the layers all-gathered over `fsdp`
    before it, and its rows kept in their sharding. Without this the compiler may carry the sharding
    of an embedding into the activations, and copy them whole ("involuntary full
    rematerialization"). The scan all-gathers layers one by one."""
    if devices.mode == "pmap":
        return loss
    sizes = {**devices.mesh.shape, sharding.FSDP: 1}

    def together(path: str, leaf: Any) -> Any:
        if is_stacked(path):
            return leaf
        spec = sharding.partition(path, leaf.shape, sizes)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(devices.mesh, spec))

    def gathered(params: PyTree, batch: Batch, *more: object) -> Any:
        params = map_named(together, params)
        batch = jax.lax.with_sharding_constraint(batch, devices.rows_sharding)
        return loss(params, batch, *more)

    return gathered


def shardings(tree: PyTree, devices: Devices) -> PyTree[NamedSharding]:
    """The sharding of each leaf of a state, or of parameters."""
    if devices.mode == "pmap":
        whole = NamedSharding(devices.lane, PartitionSpec())
        return jax.tree.map(lambda _: whole, tree)
    mesh = devices.mesh
    return map_named(
        lambda path, leaf: NamedSharding(mesh, sharding.partition(path, leaf.shape, mesh.shape)),
        tree,
    )


def shapes(make: Callable[[], T], devices: Devices) -> T:
    """Shapes, types and shardings of the result of `create`, without its memory."""
    found = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own),
        found,
        shardings(found, devices),
    )


def place(tree: T, devices: Devices) -> T:
    """The state, or the parameters, on the devices, in their shardings."""
    return jax.device_put(tree, shardings(tree, devices))


def create(make: Callable[[], T], devices: Devices) -> T:
    """The result of `make()`, computed sharded on its devices: no device ever holds a whole sharded
    array."""
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


def deal_rows(function: Callable[..., Any], devices: Devices) -> Callable[..., Any]:
    """`function(params, *rows)` with equal shares of the rows on every device, params on each.

    Every device runs the program of its own share, so a row's result does not depend on the number
    of devices.
    """
    if len(devices) == 1:
        return function
    everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    def run(params: PyTree, *rows: object) -> Any:
        return jax.shard_map(
            lambda params, rows: function(params, *rows),
            mesh=devices.lane,
            in_specs=(everywhere, dealt),
            out_specs=dealt,
            check_vma=False,
        )(params, rows)

    return run


def compile_sums(
    function: Callable[[PyTree, Batch], T], devices: Devices
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
    """The update over all devices, as a function of a placed state and this process's rows of the
    batch (`Devices.rows`).

    The state has no device axis before and after it, so a checkpoint has one layout for any
    devices. The old state's memory is reused for the new one.
    """
    if devices.mode == "mesh":
        return _compile_mesh(step, devices)
    return _compile_pmap(step, devices) if jax.process_count() == 1 else _compile_map(step, devices)


def _compile_pmap(step: Step, devices: Devices) -> CompiledStep:
    """Data parallelism: the state is the same on all devices."""
    mapped = _map(step, devices)
    return lambda state, batch: mapped(state, deal(batch, devices))


def _map(step: Step, devices: Devices) -> Any:
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(devices.devices),
        donate_argnums=(0,),
    )


def deal(batch: HostBatch, devices: Devices) -> Mapping[str, jax.Array | np.ndarray]:
    """One process's batch in the form that the program of `lower_step` takes."""
    if devices.mode == "mesh":
        return put_rows(batch, devices)
    return {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}


def lower_step(step: Step, devices: Devices, state: TrainState, batch: Mapping[str, Any]) -> Any:
    """The program of `compile_step` before compilation; its compiled form reports its memory. Only
    shapes of the whole batch and of the state are used."""
    parts: tuple[int, ...] = ()
    if devices.mode == "mesh":
        mapped = jit_step(step, devices, state)
    elif jax.process_count() == 1:
        mapped, parts = _map(step, devices), (len(devices),)
    else:
        mapped = _map_globally(step, devices)
    rows = {
        name: jax.ShapeDtypeStruct(
            (*parts, one.shape[0] // int(np.prod(parts)), *one.shape[1:]), one.dtype
        )
        for name, one in batch.items()
    }
    return mapped.lower(state, rows)


def _compile_map(step: Step, devices: Devices) -> CompiledStep:
    mapped = _map_globally(step, devices)
    return lambda state, batch: mapped(state, put_rows(batch, devices))


def _map_globally(step: Step, devices: Devices) -> Any:
    """pmap's program for several processes. pmap itself gives each process arrays of its own, and
    no common checkpoint could be written of them."""
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
    compiled: Callable[..., Any] | None = None

    def run(state: TrainState, batch: HostBatch) -> tuple[TrainState, Observed]:
        nonlocal compiled
        if compiled is None:
            compiled = jit_step(step, devices, state)
        return compiled(state, put_rows(batch, devices))

    return run


def jit_step(step: Step, devices: Devices, state: TrainState) -> Any:
    """The update on a mesh, for states with the shardings of this one (arrays, or shapes)."""
    own = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = NamedSharding(devices.mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(own, devices.rows_sharding),
        out_shardings=(own, whole),
        donate_argnums=0,
    )


def put_rows(batch: HostBatch, devices: Devices) -> dict[str, jax.Array]:
    """This process's rows as its part of one global batch."""
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

    return {name: put(local) for name, local in batch.items()}

"""Functions that a step calls while it runs on all devices: means, jobs of the optimizer, gathered
parameters."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from common.batch import Batch
from common.trees import is_stacked, map_named
from optim.spread import Spread, over_axis
from training.devices import sharding
from training.devices.devices import AXIS, Devices
from training.devices.placing import shardings

T = TypeVar("T")


def micro_batch_counter(devices: Devices, size: int) -> Callable[[int], int]:
    """A function from the number of rows that a step gets to the number of micro-batches, of `size`
    examples per device. With pmap a step gets one device's rows, on a mesh the whole batch."""
    rows = size * (1 if devices.mode == "pmap" else devices.num_shares)
    return lambda seen: max(seen // rows, 1)  # a rollback may reach smaller batches of the past


def make_mean(devices: Devices) -> Callable[[PyTree], PyTree]:
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


def make_spread(devices: Devices) -> Spread:
    """Functions with which an optimizer distributes jobs over the devices, inside a step. On a mesh
    the jobs enter and leave in the state's sharding, and no device holds all of them. A gradient
    that needs another sharding is all-gathered first."""
    if devices.mode == "pmap":
        return over_axis(AXIS, len(devices))
    mesh = devices.mesh
    by_job = PartitionSpec(sharding.JOBS[-1][0])

    def reshard(array: jax.Array, specs: Iterable[PartitionSpec]) -> jax.Array:
        for spec in specs:
            array = jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))
        return array

    def from_jobs(result: jax.Array) -> jax.Array:
        return reshard(result, reversed(sharding.job_specs(result.shape, mesh.shape)[:-1]))

    def distribute(work: Callable[[jax.Array], PyTree], jobs: jax.Array) -> PyTree:
        jobs = reshard(jobs, sharding.job_specs(jobs.shape, mesh.shape))
        on_each = jax.shard_map(work, mesh=mesh, in_specs=by_job, out_specs=by_job, check_vma=False)
        return jax.tree.map(from_jobs, on_each(jobs))

    return Spread(len(devices), distribute, lambda array: reshard(array, [PartitionSpec()]))


def with_gathered_params(loss: Callable[..., T], devices: Devices) -> Callable[..., T]:
    """`loss`, with matrices outside of the stacks (such as embeddings) all-gathered over `fsdp`
    first, and the batch constrained to its sharding. Otherwise XLA may carry the sharding of an
    embedding into the activations, and copy them whole ("involuntary full rematerialization"). The
    layers of a stack are all-gathered one by one, by the scan."""
    if devices.mode == "pmap":
        return loss
    sizes = {**devices.mesh.shape, sharding.FSDP: 1}

    def gather(path: str, leaf: jax.Array) -> jax.Array:
        if is_stacked(path):
            return leaf
        spec = sharding.partition(path, leaf.shape, sizes)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(devices.mesh, spec))

    def gathered(params: PyTree, batch: Batch, *more: object) -> T:
        params = map_named(gather, params)
        batch = jax.lax.with_sharding_constraint(batch, devices.rows_sharding)
        return loss(params, batch, *more)

    return gathered

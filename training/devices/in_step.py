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

"""Arrays on the devices: their shapes, their shardings, and how they get there.

pmap replicates the state; a mesh shards it over two of its axes, by the rules in
training/devices/sharding.py.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from common.batch import Batch, HostBatch
from common.trees import map_named
from training.devices import sharding
from training.devices.devices import Devices

T = TypeVar("T")


def shardings(tree: PyTree, devices: Devices) -> PyTree[NamedSharding]:
    """The sharding of each leaf of a state or of parameters."""
    if devices.mode == "pmap":
        replicated = NamedSharding(devices.lane, PartitionSpec())
        return jax.tree.map(lambda _: replicated, tree)
    mesh = devices.mesh
    return map_named(
        lambda path, leaf: NamedSharding(mesh, sharding.partition(path, leaf.shape, mesh.shape)),
        tree,
    )


def shapes(make: Callable[[], T], devices: Devices) -> T:
    """The shapes, dtypes and shardings of `create(make, devices)`; no memory is allocated."""
    tree = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, devices),
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

    def first(leaf: jax.Array) -> jax.Array:
        if not leaf.sharding.is_fully_replicated:
            assert isinstance(leaf.sharding, NamedSharding)
            replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())
            leaf = jax.jit(lambda x: x, out_shardings=replicated)(leaf).block_until_ready()
        return leaf.addressable_data(0)

    return jax.tree.map(first, tree)


def global_batch(batch: HostBatch, devices: Devices) -> Batch[jax.Array]:
    """The global batch, assembled from the rows of each process."""
    if jax.process_count() == 1:
        return jax.device_put(batch, devices.rows_sharding)
    shares = len(devices.rows(devices.num_shares))  # this process's; `tensor` may span processes
    size = len(batch["example_index"]) * devices.num_shares // shares
    own_rows = devices.rows(size)

    def assemble(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            rows = np.arange(size)[index[0]]
            return local[np.searchsorted(own_rows, rows)]

        shape = (size, *local.shape[1:])
        return jax.make_array_from_callback(shape, devices.rows_sharding, part)

    return jax.tree.map(assemble, batch)

"""Independent jobs distributed over devices. The functions that distribute them are values, so this
file knows no mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Spread(NamedTuple):
    """Distributes jobs, which are the rows of an array, over devices."""

    devices: int = 1
    """Number of devices; jobs are padded to a multiple of it."""
    deal: Callable[[Callable[[Array], PyTree], Array], PyTree] = lambda work, jobs: work(jobs)
    """(work, jobs) → work(jobs). Each device computes an equal part; the results are gathered in
    the order of the jobs."""
    whole: Callable[[Array], Array] = lambda array: array
    """All-gathers an array that may be sharded over the devices."""


LOCAL = Spread()


def spread_jobs(job: Callable[[Array], PyTree], jobs: Array, spread: Spread = LOCAL) -> PyTree:
    """`jax.vmap(job)(jobs)`, where each device computes its part. `job` may return a tree."""
    count = jobs.shape[0]
    fill = jnp.broadcast_to(jobs[:1], (-count % spread.devices, *jobs.shape[1:]))
    results = spread.deal(jax.vmap(job), jnp.concatenate([jobs, fill]))
    return jax.tree.map(lambda part: part[:count], results)


def over_axis(name: str, devices: int) -> Spread:
    """A Spread over a named axis of `jax.pmap`, `jax.shard_map` or `jax.vmap` of size `devices`.
    Every device gets all results."""

    def deal(work: Callable[[Array], PyTree], jobs: Array) -> PyTree:
        size = jobs.shape[0] // devices
        share = jax.lax.dynamic_slice_in_dim(jobs, jax.lax.axis_index(name) * size, size)
        return jax.tree.map(lambda part: jax.lax.all_gather(part, name, tiled=True), work(share))

    return Spread(devices, deal)

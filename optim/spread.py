"""Independent jobs spread over devices by functions given as values: no mesh is known here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Spread(NamedTuple):
    """How n jobs, the rows of a first axis that `devices` divides, are shared among devices."""

    devices: int = 1
    """Devices that take part; the jobs are padded to a multiple of it."""
    deal: Callable[[Callable[[Array], Any], Array], Any] = lambda work, jobs: work(jobs)
    """`work(jobs)`, each device doing its equal part of the jobs, by order of devices; the results
    are gathered in the order of the jobs."""
    whole: Callable[[Array], Array] = lambda array: array
    """All-gathers an array that may be sharded over the devices."""


LOCAL = Spread()


def spread_jobs(job: Callable[[Array], Any], jobs: Array, spread: Spread = LOCAL) -> Any:
    """`jax.vmap(job)(jobs)`, each device computing its share. `job` may return a tree."""
    count = jobs.shape[0]
    fill = jnp.broadcast_to(jobs[:1], (-count % spread.devices, *jobs.shape[1:]))
    results = spread.deal(jax.vmap(job), jnp.concatenate([jobs, fill]))
    return jax.tree.map(lambda part: part[:count], results)


def over_axis(name: str, devices: int) -> Spread:
    """Over an axis of `jax.pmap`, `jax.shard_map` or `jax.vmap` with that many members, each of
    which gets all results."""

    def deal(work: Callable[[Array], Any], jobs: Array) -> Any:
        size = jobs.shape[0] // devices
        own = jax.lax.dynamic_slice_in_dim(jobs, jax.lax.axis_index(name) * size, size)
        return jax.tree.map(lambda part: jax.lax.all_gather(part, name, tiled=True), work(own))

    return Spread(devices, deal)

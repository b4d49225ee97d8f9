"""Independent jobs spread over devices by functions given as values: no mesh is known here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Spread(NamedTuple):
    """Who computes which of n jobs, the rows of a first axis that `devices` divides."""

    devices: int = 1
    """Devices that take part; the jobs are padded to a multiple of it."""
    share: Callable[[Array], Array] = lambda jobs: jobs
    """This device's equal part of all jobs, by order of devices."""
    gather: Callable[[Array], Array] = lambda results: results
    """The results of all devices, on every device, in the order of the jobs."""


LOCAL = Spread()


def spread_jobs(job: Callable[[Array], Any], jobs: Array, spread: Spread = LOCAL) -> Any:
    """`jax.vmap(job)(jobs)`, each device computing its share. `job` may return a tree."""
    count = jobs.shape[0]
    fill = jnp.broadcast_to(jobs[:1], (-count % spread.devices, *jobs.shape[1:]))
    results = jax.vmap(job)(spread.share(jnp.concatenate([jobs, fill])))
    return jax.tree.map(lambda part: spread.gather(part)[:count], results)


def over_axis(name: str, devices: int) -> Spread:
    """Over an axis of `jax.pmap`, `jax.shard_map` or `jax.vmap` with that many members."""

    def share(jobs: Array) -> Array:
        size = jobs.shape[0] // devices
        return jax.lax.dynamic_slice_in_dim(jobs, jax.lax.axis_index(name) * size, size)

    return Spread(devices, share, lambda part: jax.lax.all_gather(part, name, tiled=True))

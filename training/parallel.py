"""Devices. The only file that knows pmap and meshes: everything else sees one batch and one state.

pmap deals the batch's rows to the devices, each with the whole state. mesh has three axes, and lays
the state out over two of them by the rules of training/sharding.py.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from optim.spread import Spread, over_axis
from training import sharding
from training.config import ParallelConfig, ParallelMode
from training.step import Loss, Step

AXIS = sharding.DATA


@dataclass(frozen=True)
class Devices:
    """The devices of a run, those of all processes."""

    devices: tuple[jax.Device, ...]
    mode: ParallelMode = "pmap"
    fsdp: int = 1
    tensor: int = 1

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which alone writes what is not sharded."""
        return jax.process_index() == 0

    @property
    def num_shares(self) -> int:
        """Into how many parts the rows of a batch are dealt."""
        return len(self) // self.tensor

    @cached_property
    def mesh(self) -> Mesh:
        """The devices by data, fsdp and tensor."""
        shape = (self.num_shares // self.fsdp, self.fsdp, self.tensor)
        kinds = (AxisType.Auto,) * len(shape)
        return jax.make_mesh(shape, sharding.AXES, axis_types=kinds, devices=self.devices)

    @cached_property
    def lane(self) -> Mesh:
        """The devices in a row."""
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def rows_sharding(self) -> NamedSharding:
        """Where the rows of a batch lie."""
        if self.mode == "pmap":
            return NamedSharding(self.lane, PartitionSpec(AXIS))
        return NamedSharding(self.mesh, sharding.ROWS)

    def rows(self, batch_size: int) -> Int64[np.ndarray, "b"]:
        """Which rows of a batch lie on this process's devices, in rising order."""
        parts = self.rows_sharding.addressable_devices_indices_map((batch_size,)).values()
        every = np.arange(batch_size, dtype=np.int64)
        return np.unique(np.concatenate([every[index] for index in parts if index is not None]))

    def describe(self) -> str:
        """Such as "4 × NVIDIA H200"."""
        text = f"{len(self)} × {self.devices[0].device_kind}"
        if self.mode == "mesh":
            text += " as " + " × ".join(f"{n} {name}" for name, n in self.mesh.shape.items())
        many = len({device.process_index for device in self.devices})
        return f"{text} in {many} processes" if many > 1 else text


def start(config: ParallelConfig) -> Devices:
    """The devices to use. Raises ValueError for what cannot be had of those that are there."""
    local = jax.local_devices()
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if local[0].platform == "cpu" and wanted != "cpu" and shutil.which("nvidia-smi"):
        print(
            "a GPU is here and unused: jax is installed without CUDA; "
            "`make quickstart ACCELERATOR=gpu` installs the matching one",
            file=sys.stderr,
        )
    if not 0 <= config.devices <= len(local):
        raise ValueError(
            f"parallel.devices {config.devices} is not possible with {len(local)} "
            f"{local[0].platform} device(s); 0 takes all"
        )
    taken: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        taken.setdefault(device.process_index, []).append(device)
    return choose([d for own in taken.values() for d in own[: config.devices or None]], config)


def choose(devices: list[Any], config: ParallelConfig) -> Devices:
    """The devices, arranged. Raises ValueError when they do not make up the mesh."""
    cut = config.fsdp * config.tensor
    if config.mode == "pmap" and cut > 1:
        raise ValueError(
            f"parallel.fsdp {config.fsdp} and parallel.tensor {config.tensor} cut the state, which "
            "pmap holds whole on each device; add --parallel.mode=mesh"
        )
    if len(devices) % cut:
        raise ValueError(
            f"parallel.fsdp {config.fsdp} × parallel.tensor {config.tensor} does not divide "
            f"{len(devices)} device(s)"
        )
    return Devices(tuple(devices), config.mode, config.fsdp, config.tensor)


def check_batch(batch_size: int, devices: Devices, accumulation_steps: int) -> None:
    """Raises ValueError unless every device gets equally many examples in every micro-batch."""
    share = devices.num_shares * accumulation_steps
    if batch_size % share:
        near = max(batch_size // share, 1) * share
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of {devices.num_shares} device(s) × "
            f"{accumulation_steps} accumulation steps; try {near}"
        )


def count_micro_batches(devices: Devices, size: int) -> Callable[[int], int]:
    """Into how many micro-batches of `size` examples a device the rows of a batch fall, as the step
    sees them: in pmap one device's, on a mesh all."""
    rows = size * (1 if devices.mode == "pmap" else devices.num_shares)
    return lambda seen: seen // rows


def mean_over(devices: Devices) -> Callable[[Any], Any]:
    """The mean over the devices, for use inside a step that `compile_step` compiles. On a mesh the
    step is one program that sees the whole batch: its means are over all devices already."""
    if devices.mode == "pmap":
        return lambda tree: jax.lax.pmean(tree, AXIS)
    return lambda tree: tree


def spread(devices: Devices) -> Spread:
    """Jobs that an optimizer deals to the devices, inside of such a step."""
    if devices.mode == "pmap":
        return over_axis(AXIS, len(devices))

    def lie(*axes: Any) -> Callable[[jax.Array], jax.Array]:
        there = NamedSharding(devices.mesh, PartitionSpec(*axes))
        return lambda jobs: jax.lax.with_sharding_constraint(jobs, there)

    return Spread(len(devices), lie(sharding.AXES), lie())


def gather_before(loss: Loss, devices: Devices) -> Loss:
    """`loss` with embeddings and other matrices outside of the layers put together over `fsdp` in
    front of it, and its rows held where they lie. Left to itself the compiler may carry the cut of
    an embedding into the activations and pay for it with whole copies of them ("involuntary full
    rematerialization"). Layers are put together one by one, as the scan comes to them."""
    if devices.mode == "pmap":
        return loss
    sizes = {**devices.mesh.shape, sharding.FSDP: 1}

    def together(keys: Any, leaf: Any) -> Any:
        path = sharding.path_of(keys)
        if sharding.is_stacked(path):
            return leaf
        spec = sharding.partition(path, leaf.shape, sizes)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(devices.mesh, spec))

    def gathered(params: Any, batch: Any, keys: Any) -> Any:
        params = jax.tree_util.tree_map_with_path(together, params)
        batch = jax.lax.with_sharding_constraint(batch, devices.rows_sharding)
        return loss(params, batch, keys)

    return gathered


def shardings(tree: Any, devices: Devices) -> Any:
    """Where each leaf of a state, or of parameters, lies."""
    if devices.mode == "pmap":
        whole = NamedSharding(devices.lane, PartitionSpec())
        return jax.tree.map(lambda _: whole, tree)
    mesh = devices.mesh
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: NamedSharding(
            mesh, sharding.partition(sharding.path_of(keys), leaf.shape, mesh.shape)
        ),
        tree,
    )


def shapes(make: Callable[[], Any], devices: Devices) -> Any:
    """What `create` would give, without its memory: shapes that know where they lie."""
    found = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, lies: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lies),
        found,
        shardings(found, devices),
    )


def place(tree: Any, devices: Devices) -> Any:
    """A state, or parameters, on the devices; each array is still seen as one."""
    return jax.device_put(tree, shardings(tree, devices))


def create(make: Callable[[], Any], devices: Devices) -> Any:
    """`make()`, computed on the devices that will hold it: no device ever holds all of what a mesh
    cuts."""
    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make), devices))()


def on_first_device(tree: Any) -> Any:
    """The arrays on this process's first device: copies that are there already, or, of arrays that
    are cut, new ones. Every process must call this."""

    def first(leaf: Any) -> Any:
        if not leaf.sharding.is_fully_replicated:
            whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
            leaf = jax.jit(lambda x: x, out_shardings=whole)(leaf).block_until_ready()
        return leaf.addressable_data(0)

    return jax.tree.map(first, tree)


def deal_rows(function: Callable[..., Any], devices: Devices) -> Callable[..., Any]:
    """`function(params, *rows)` with equal shares of the rows on every device, params on each.

    Every device runs the program of its own share, so a row's result does not depend on how many
    devices there are.
    """
    if len(devices) == 1:
        return function
    everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    def run(params: Any, *rows: Any) -> Any:
        return jax.shard_map(
            lambda params, rows: function(params, *rows),
            mesh=devices.lane,
            in_specs=(everywhere, dealt),
            out_specs=dealt,
            check_vma=False,
        )(params, rows)

    return run


def compile_step(step: Step, devices: Devices) -> Callable[[Any, dict[str, np.ndarray]], Any]:
    """The update over all devices, of a state that `place` or `create` gave and of this process's
    rows of the batch (`Devices.rows`).

    The state goes in and comes out without a device axis, so that a checkpoint has one layout
    whatever the devices. The old state's memory is given to the new one.
    """
    if devices.mode == "mesh":
        return _compile_mesh(step, devices)
    return _compile_pmap(step, devices) if jax.process_count() == 1 else _compile_map(step, devices)


def _compile_pmap(step: Step, devices: Devices) -> Callable[[Any, dict[str, np.ndarray]], Any]:
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


def deal(batch: dict[str, np.ndarray], devices: Devices) -> dict[str, Any]:
    """One process's batch as the program of `lower_step` takes it."""
    if devices.mode == "mesh":
        return put_rows(batch, devices)
    return {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}


def lower_step(step: Step, devices: Devices, state: Any, batch: dict[str, Any]) -> Any:
    """What `compile_step` runs, not compiled yet: compiled, it says what memory it takes. Of the
    whole batch, and of the state, only shapes count."""
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


def _compile_map(step: Step, devices: Devices) -> Callable[[Any, dict[str, np.ndarray]], Any]:
    mapped = _map_globally(step, devices)
    return lambda state, batch: mapped(state, put_rows(batch, devices))


def _map_globally(step: Step, devices: Devices) -> Any:
    """The program that pmap makes, for several processes: pmap itself gives each of them arrays of
    its own, of which no common checkpoint can be written."""
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


def _compile_mesh(step: Step, devices: Devices) -> Callable[[Any, dict[str, np.ndarray]], Any]:
    compiled: Callable[..., Any] | None = None

    def run(state: Any, batch: dict[str, np.ndarray]) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = jit_step(step, devices, state)
        return compiled(state, put_rows(batch, devices))

    return run


def jit_step(step: Step, devices: Devices, state: Any) -> Any:
    """The update on a mesh, for states that lie like this one (arrays, or shapes that know their
    shardings)."""
    lies = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = NamedSharding(devices.mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(lies, devices.rows_sharding),
        out_shardings=(lies, whole),
        donate_argnums=0,
    )


def put_rows(batch: dict[str, np.ndarray], devices: Devices) -> dict[str, jax.Array]:
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

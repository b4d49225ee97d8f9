"""The devices of a run: which there are, how they are arranged, and which rows each one gets."""

import os
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from training.config import ParallelConfig, ParallelMode
from training.devices import sharding

AXIS = sharding.DATA


@dataclass(frozen=True)
class Devices:
    """The devices of a run, of all processes."""

    devices: tuple[jax.Device, ...]
    mode: ParallelMode = "pmap"
    fsdp: int = 1
    tensor: int = 1

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def is_first(self) -> bool:
        """True in process 0, which alone writes files, except for sharded arrays."""
        return jax.process_index() == 0

    @property
    def num_shares(self) -> int:
        """The number of parts into which the rows of a batch are sharded."""
        return len(self) // self.tensor

    @cached_property
    def mesh(self) -> Mesh:
        """The devices as a mesh with the axes data, fsdp and tensor."""
        shape = (self.num_shares // self.fsdp, self.fsdp, self.tensor)
        kinds = (AxisType.Auto,) * len(shape)
        return jax.make_mesh(shape, sharding.AXES, axis_types=kinds, devices=self.devices)

    @cached_property
    def lane(self) -> Mesh:
        """The devices as a mesh with one axis."""
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def rows_sharding(self) -> NamedSharding:
        """The sharding of the rows of a batch."""
        if self.mode == "pmap":
            return NamedSharding(self.lane, PartitionSpec(AXIS))
        return NamedSharding(self.mesh, sharding.ROWS)

    def rows(self, batch_size: int) -> Int64[np.ndarray, " b"]:
        """The rows of a batch that this process's devices hold, in ascending order."""
        parts = self.rows_sharding.addressable_devices_indices_map((batch_size,)).values()
        every = np.arange(batch_size, dtype=np.int64)
        return np.unique(np.concatenate([every[index] for index in parts if index is not None]))

    def describe(self) -> str:
        """A text such as "4 × NVIDIA H200"."""
        text = f"{len(self)} × {self.devices[0].device_kind}"
        if self.mode == "mesh":
            text += " as " + " × ".join(f"{n} {name}" for name, n in self.mesh.shape.items())
        many = len({device.process_index for device in self.devices})
        return f"{text} in {many} processes" if many > 1 else text


def find_devices(config: ParallelConfig) -> Devices:
    """The configured devices of all processes. Raises ValueError if there are too few, or if they
    do not fit the configured mesh."""
    local = jax.local_devices()
    platform = os.environ.get("JAX_PLATFORMS", "")
    if local[0].platform == "cpu" and platform != "cpu" and shutil.which("nvidia-smi"):
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
    return arrange(
        [d for of_process in taken.values() for d in of_process[: config.devices or None]], config
    )


def arrange(devices: list[jax.Device], config: ParallelConfig) -> Devices:
    """The given devices in the configured arrangement. Raises ValueError if their number does not
    fit the mesh."""
    parts = config.fsdp * config.tensor
    if config.mode == "pmap" and parts > 1:
        raise ValueError(
            f"parallel.fsdp {config.fsdp} and parallel.tensor {config.tensor} shard the state, but "
            "pmap holds it whole on each device; add --parallel.mode=mesh"
        )
    if len(devices) % parts:
        raise ValueError(
            f"parallel.fsdp {config.fsdp} × parallel.tensor {config.tensor} does not divide "
            f"{len(devices)} device(s)"
        )
    return Devices(tuple(devices), config.mode, config.fsdp, config.tensor)


def check_batch(batch_size: int, devices: Devices, accumulation_steps: int) -> None:
    """Raise ValueError unless each device gets the same number of examples in each micro-batch."""
    share = devices.num_shares * accumulation_steps
    if batch_size % share:
        near = max(batch_size // share, 1) * share
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of {devices.num_shares} device(s) × "
            f"{accumulation_steps} accumulation steps; try {near}"
        )

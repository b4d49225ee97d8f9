"""Devices. The only file that knows pmap: everything else sees one batch and one state."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training.config import ParallelConfig
from training.step import Step

AXIS = "data"


@dataclass(frozen=True)
class Devices:
    """The devices of a run."""

    devices: tuple[jax.Device, ...]

    def __len__(self) -> int:
        return len(self.devices)

    def describe(self) -> str:
        """Such as "4 × NVIDIA H200"."""
        return f"{len(self)} × {self.devices[0].device_kind}"


def start(config: ParallelConfig) -> Devices:
    """The devices to use. Raises ValueError when more are asked for than there are."""
    found = jax.local_devices()
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if found[0].platform == "cpu" and wanted != "cpu" and shutil.which("nvidia-smi"):
        print(
            "a GPU is here and unused: jax is installed without CUDA; "
            "`make quickstart ACCELERATOR=gpu` installs the matching one",
            file=sys.stderr,
        )
    if not 0 <= config.devices <= len(found):
        raise ValueError(
            f"parallel.devices {config.devices} is not possible with {len(found)} "
            f"{found[0].platform} device(s); 0 takes all"
        )
    return Devices(tuple(found[: config.devices or len(found)]))


def check_batch(batch_size: int, devices: Devices, accumulation_steps: int) -> None:
    """Raises ValueError unless every device gets equally many examples in every micro-batch."""
    share = len(devices) * accumulation_steps
    if batch_size % share:
        near = max(batch_size // share, 1) * share
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of {len(devices)} device(s) × "
            f"{accumulation_steps} accumulation steps; try {near}"
        )


def mean_over_devices(tree: Any) -> Any:
    """Mean over the devices, for use inside a step that `compile_step` compiles."""
    return jax.lax.pmean(tree, AXIS)


def replicate(tree: Any, devices: Devices) -> Any:
    """A copy on every device, seen as one array without a device axis."""
    mesh = Mesh(np.array(devices.devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_first_device(tree: Any) -> Any:
    """The first device's copy of replicated arrays, without copying."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def deal_rows(function: Callable[..., Any], devices: Devices) -> Callable[..., Any]:
    """`function(params, *rows)` with equal shares of the rows on every device, params on each.

    Every device runs the program of its own share, so a row's result does not depend on how many
    devices there are.
    """
    if len(devices) == 1:
        return function
    mesh = Mesh(np.array(devices.devices), (AXIS,))
    everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    def run(params: Any, *rows: Any) -> Any:
        return jax.shard_map(
            lambda params, rows: function(params, *rows),
            mesh=mesh,
            in_specs=(everywhere, dealt),
            out_specs=dealt,
            check_vma=False,
        )(params, rows)

    return run


def compile_step(step: Step, devices: Devices) -> Callable[[Any, dict[str, np.ndarray]], Any]:
    """Data parallelism: the batch's rows are dealt to the devices, the state is the same on all.

    The state goes in and comes out without a device axis, so that a checkpoint has one layout
    whatever the device count. The old state's memory is given to the new one.
    """
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(devices.devices),
        donate_argnums=(0,),
    )

    def run(state: Any, batch: dict[str, np.ndarray]) -> Any:
        return mapped(
            state, {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}
        )

    return run

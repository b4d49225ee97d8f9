"""Errors for runs that do not fit in memory: before anything is allocated, or when memory runs
out."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import jax

from common.terminal import is_out_of_memory
from training.devices import processes
from training.devices.devices import Devices
from training.devices.fitting import GB, available_memory, bytes_on_device, device_memory

AUTO = "--training.micro_batch_size=auto finds the most that fits"


def check_room(
    state: object,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    devices: Devices,
    room: int | None = None,
) -> None:
    """Raise ValueError in every process if the state (shapes with shardings) is larger than the
    memory of a device, or a process's share of a batch larger than the machine's. `room` is the
    memory of both in bytes; None = measured."""
    need = bytes_on_device(state)
    available = processes.from_process_0(lambda: device_memory(devices)) if room is None else room
    if need > available:
        raise ValueError(
            f"weights and optimizer state take {need / GB:,.3f} GB of each device, which has "
            f"{available / GB:,.3f} GB; make the model smaller, or shard it with "
            "--parallel.mode=mesh and a larger --parallel.fsdp"
        )
    sizes = [math.prod(array.shape) * array.dtype.itemsize for array in batch.values()]
    share = sum(sizes) // jax.process_count()
    machine = processes.from_process_0(available_memory) if room is None else room
    if share > machine:
        examples = max(array.shape[0] for array in batch.values())
        raise ValueError(
            f"training.batch_size {examples:,} takes {share / GB:,.3f} GB of this machine, which "
            f"has {machine / GB:,.3f} GB, before anything is computed; make it smaller"
        )


@contextlib.contextmanager
def explain_out_of_memory(micro_batch: int, updates: Callable[[], int]) -> Iterator[None]:
    """A context that turns an out-of-memory error of training into a ValueError. The message names
    the micro-batch, whether it fitted before, and the fix. `updates()` is the number of updates
    since the start."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        made, words = updates(), " ".join(str(error).split())[:200]
        fits = f"{micro_batch} example(s) at a time on each device"
        known = (
            f"{fits} did fit in {made} update(s), but not what came beside them, such as an "
            "evaluation, a grid or a save; take fewer with --training.micro_batch_size"
            if made
            else f"{fits} do not fit; {AUTO}"
        )
        raise ValueError(f"out of memory: {known} ({words})") from None

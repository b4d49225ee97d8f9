"""The memory of the compiled step, and the largest micro-batch that fits on a device."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from common.batch import Batch
from training.devices import parallel, placing, processes
from training.devices.batching import BatchPlan
from training.devices.devices import Devices, check_batch
from training.update.state import TrainState
from training.update.step import Step

GB = 1e9
Shapes = Batch[jax.ShapeDtypeStruct]
"""The shapes of a batch of any kind."""
WAYS_OUT = "take more devices, more accumulation_steps or tensor"


NO_PROGRAM = "it does not compile"


class DoesNotFitError(ValueError):
    """A step that needs more memory than a device has."""


def find_micro_batch(
    plan: BatchPlan,
    devices: Devices,
    make_step: Callable[[int], Step],
    create: Callable[[], TrainState],
    batch: Callable[[int], Shapes],
    limit: int | None = None,
) -> int:
    """The largest micro-batch that fits on a device, among the divisors of its share of a batch.
    The step is compiled for the largest divisor first. On an accelerator one update is run as well.
    Prints a line for each attempt.

    `make_step(size)` is the update with this micro-batch, `batch(size)` the shapes of a whole
    batch, and `limit` the memory of a device in bytes; None = measured.

    Raises:
        ValueError: a micro-batch of one example does not fit; the message says by how much.
    """
    for size in plan.sizes:
        check_batch(size, devices, 1)
    share = math.gcd(*plan.sizes) // devices.num_shares
    largest = batch(max(plan.sizes))
    state = placing.shapes(create, devices)
    if limit is None:
        limit = processes.from_process_0(lambda: device_memory(devices))
    print(f"micro-batch  accumulation  GB a device, of {limit / GB:.3f}", flush=True)
    problem = ""
    for size in divisors(share):
        parts = f"{size:11,}  {plan.first // (devices.num_shares * size):12,}"
        step = make_step(size)
        try:
            need = sum(compile_memory(step, state, largest, devices).values())
            if need > limit:
                raise DoesNotFitError(too_much(need, limit))
            print(f"{parts}  {need / GB:11.3f}", end="  ", flush=True)
            if _can_try(devices):
                _try_update(step, create, largest, devices)
        except DoesNotFitError as error:
            problem = str(error)
            print(f"{parts}  {problem.partition(';')[0]}", flush=True)
            continue
        print("fits", flush=True)
        return size
    raise ValueError(f"training.micro_batch_size auto: with one example at a time {problem}")


def divisors(number: int) -> list[int]:
    """The divisors, largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def compile_memory(
    step: Step, state: TrainState, batch: PyTree, devices: Devices
) -> dict[str, int]:
    """Bytes that the compiled step holds on each device. `state` and the whole `batch` are arrays
    or shapes, the state's with their shardings.

    Raises:
        DoesNotFitError: the compiler found no way to fit it into the device's memory.
        ValueError: it does not compile.
    """
    lowered = parallel.lower_step(step, devices, state, batch)
    try:
        analysis = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        state_bytes = bytes_on_device(state)
        text = say_by_how_much(str(error), state_bytes / 2**30)
        raise (ValueError if text.startswith(NO_PROGRAM) else DoesNotFitError)(text) from None
    assert analysis is not None  # CPUs, GPUs and TPUs report it
    return {
        "state and batch": analysis.argument_size_in_bytes,
        "new state beside the old": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "activations and gradients": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }


def bytes_on_device(tree: PyTree) -> int:
    """Bytes that a device holds of arrays, or of shapes with their shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def say_by_how_much(error: str, state_gib: float) -> str:
    """A sentence from the compiler's own words, which come in two forms and do not always count the
    state."""
    temporaries = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", error)
    whole = re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", error)
    if temporaries:
        need, limit = float(temporaries[1]) + state_gib, float(temporaries[2])
    elif whole:
        need, limit = float(whole[1]), float(whole[2])
    else:
        return f"{NO_PROGRAM}: {' '.join(error.split())[:500]}"
    return too_much(int(need * 2**30), int(limit * 2**30))


def too_much(need: int, limit: int) -> str:
    """A sentence that names the excess in GB."""
    return (
        f"it does not fit: a device needs {need / GB:.3f} GB of {limit / GB:.3f} GB, "
        f"{(need - limit) / GB:.3f} GB too much; {WAYS_OUT}"
    )


def device_memory(devices: Devices) -> int:
    """Bytes that a device of this process may hold: the smallest device's if devices report them,
    else an equal share of the machine's free memory."""
    local = [device for device in devices.devices if device.process_index == jax.process_index()]
    stats = [device.memory_stats() or {} for device in local]
    limits = [
        device_stats["bytes_limit"] for device_stats in stats if device_stats.get("bytes_limit")
    ]
    return min(limits) if limits else available_memory() // len(local)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine's, and of its control groups' limits
    (Linux; elsewhere all that the machine has)."""
    info = root / "proc/meminfo"
    if not info.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    match = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE)
    left = [int(match[1]) * 1024] if match else []
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            top = root / "sys/fs/cgroup" / kinds
            place = top / path.lstrip("/")
            folders = [place, *(parent for parent in place.parents if parent.is_relative_to(top))]
            left += [free for folder in folders if (free := _left_in(folder)) is not None]
    return max(min(left), 0)


def _left_in(group: Path) -> int | None:
    """Bytes left of a control group's limit; files cached in memory count as free."""
    for limit, usage, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (group / limit).is_file() and (text := (group / limit).read_text().strip()) != "max":
            stat = re.search(rf"^{idle} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
            kept = int(stat[1]) if stat else 0
            return int(text) - int((group / usage).read_text()) + kept
    return None


def _can_try(devices: Devices) -> bool:
    """True if one update can be tried. Not with several processes: if one failed, the others would
    wait forever."""
    return devices.devices[0].platform != "cpu" and jax.process_count() == 1


def _try_update(
    step: Step, create: Callable[[], TrainState], batch: Shapes, devices: Devices
) -> None:
    """Make one update of a temporary state. Raises DoesNotFitError if memory runs out."""
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), batch)
    arrays["example_index"] = np.arange(len(arrays["example_index"]), dtype=np.int32)
    try:
        run = parallel.compile_step(step, devices)
        jax.block_until_ready(run(placing.create(create, devices), arrays))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        words = " ".join(str(error).split())[:200]
        raise DoesNotFitError(f"it does not fit when tried: {words}; {WAYS_OUT}") from None

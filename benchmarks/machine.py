"""Measures the machine: time, its fastest matrix product, the memory that a call takes."""

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from model.layers import matmul

PRODUCTS = {
    "cpu": ((2048, 256, 1024), (2048, 1024, 256), (1024, 1024, 1024), (4096, 1024, 1024)),
    "other": ((8192, 8192, 8192), (16384, 8192, 8192), (16384, 4096, 16384)),
}
"""Rows, inner size and columns of the matrix products that are tried."""
CALLS = 4
"""Products dispatched together, so that an accelerator does not wait for Python."""


def choose_clock() -> Callable[[], float]:
    """A clock in seconds: CPU time on a single core (`taskset -c 0`), which excludes other
    processes; else wall time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    alone = cores == 1 and jax.default_backend() == "cpu"
    return time.process_time if alone else time.perf_counter


def seconds(call: Callable[[], Any], times: int) -> list[float]:
    """The seconds of each of `times` calls, until its results are ready."""
    clock, elapsed = choose_clock(), []
    for _ in range(times):
        start = clock()
        jax.block_until_ready(call())
        elapsed.append(clock() - start)
    return elapsed


def measure_products(dtype: str, rounds: int) -> tuple[float, tuple[int, int, int]]:
    """FLOPs per second of one device in its fastest matrix product, and that product's rows, inner
    size and columns. Operands have `dtype` and results float32, as in the model."""
    shapes = PRODUCTS["cpu" if jax.default_backend() == "cpu" else "other"]
    return max((_measure_product(dtype, shape, rounds), shape) for shape in shapes)


def _measure_product(dtype: str, shape: tuple[int, int, int], rounds: int) -> float:
    rows, inner, columns = shape
    x, kernel = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
    product = jax.jit(lambda x, kernel: matmul(x, kernel, jnp.dtype(dtype)))
    times = seconds(lambda: [product(x, kernel) for _ in range(CALLS)], rounds + 1)
    return CALLS * 2 * rows * inner * columns / min(times[1:])


def peak_memory(call: Callable[[], Any]) -> int:
    """The peak of memory so far on the fullest device, in bytes. On a CPU: the bytes of all arrays,
    plus the growth of the process while `call` runs.

    If neither can be measured, the peak of the process is returned.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if "peak_bytes_in_use" in stats[0]:
        jax.block_until_ready(call())
        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        return max(device["peak_bytes_in_use"] for device in stats)
    if not _forget_peak():
        jax.block_until_ready(call())
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    before, arrays = _from_kernel("VmRSS"), sum(array.nbytes for array in jax.live_arrays())
    jax.block_until_ready(call())
    return arrays + _from_kernel("VmHWM") - before


def _forget_peak() -> bool:
    """Return freed memory to the system and reset Linux's record of the process's peak. runtime.py
    keeps freed memory, which would be counted. Returns True if both were possible."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except OSError:
        return False
    return True


def _from_kernel(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

"""Memory of drawing: how many pictures fit on a device at a time, checked before they are drawn."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import PyTree

from common.terminal import is_out_of_memory
from training.devices.devices import Devices
from training.devices.fitting import GB, device_memory

ROWS_PER_CALL = 32
"""Pictures drawn at a time on a device by default."""
MAX_ROWS = 1 << 16
"""Most pictures at a time on a device: more fit in no memory, and compile slowly."""
Program = Callable[..., Any]


def check_rows(rows: int) -> None:
    """Raise ValueError unless 1 ≤ rows ≤ MAX_ROWS."""
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows_per_call {rows} must be at least 1 picture, at most {MAX_ROWS:,}")


def rows_for(total: int, num_devices: int = 1) -> int:
    """Rows per call for `total` pictures: a power of two up to 32, so that few programs are
    compiled."""
    share = -(-total // num_devices)
    return min(ROWS_PER_CALL, 1 << max(share - 1, 0).bit_length())


def within_memory(
    function: Any, devices: Devices, rows: int, room: Callable[[Devices], int] = device_memory
) -> Program:
    """The jitted `function`, compiled once for each shape of its arguments. It handles `rows` rows
    on each device, and is refused before it runs if it needs more than a device's `room`.

    Raises:
        ValueError: when called; the message names the number of rows that fit.
    """
    programs: dict[Any, Program] = {}

    def call(*arguments: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in programs:
            with explain_out_of_memory(rows):
                compiled = function.lower(*arguments).compile()
            _check_room(compiled, devices, rows, room(devices))
            programs[key] = compiled
        return programs[key](*arguments)

    return call


def _check_room(compiled: jax.stages.Compiled, devices: Devices, rows: int, room: int) -> None:
    sizes = compiled.memory_analysis()
    if sizes is None:  # this backend does not say
        return
    need = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    if devices.devices[0].memory_stats():  # the room is the whole device, not its free part
        need += sizes.argument_size_in_bytes
    if need > room:
        raise ValueError(
            f"rows_per_call {rows}: this many pictures at a time take {need / GB:.3g} GB of the "
            f"{room / GB:.3g} GB that a device has; {_fewer(rows * room // need)}"
        )


@contextlib.contextmanager
def explain_out_of_memory(rows: int) -> Iterator[None]:
    """A context that turns an out-of-memory error into a ValueError that says how many pictures to
    try."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"out of memory: {rows} picture(s) at a time do not fit on a device; "
            f"{_fewer(rows // 2)}"
        ) from None


def _fewer(rows: int) -> str:
    """The advice to take fewer rows: a power of two, so that few programs are compiled."""
    if rows < 1:
        return "take --compute_dtype=bfloat16, or a device with more memory"
    return f"take --rows_per_call={1 << (rows.bit_length() - 1)} or fewer"

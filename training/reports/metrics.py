"""metrics.jsonl: one row for each finished update, with counts and times."""

import contextlib
import json
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax

from common.json_files import Json
from training.update.observables import Number
from training.update.step_metrics import Row


@dataclass(frozen=True)
class Costs:
    """Tokens and FLOPs of an example, for speed metrics; 0 = unknown."""

    tokens: int = 0
    """Image tokens of an example."""
    flops: float = 0.0
    """FLOPs of an example in training."""
    peak_flops: float = 0.0
    """Peak FLOP/s of all devices together."""

    def speeds(self, examples_per_s: float) -> dict[str, float]:
        """Metrics of speed by name; without those whose costs are unknown."""
        speeds = {"speed/examples_per_s": examples_per_s}
        if self.tokens:
            speeds["speed/tokens_per_s"] = examples_per_s * self.tokens
        if self.flops:
            speeds["speed/tflops"] = examples_per_s * self.flops / 1e12
        if self.flops and self.peak_flops:
            speeds["speed/utilisation"] = examples_per_s * self.flops / self.peak_flops
        return speeds


NO_COSTS = Costs()
BLOCK = 2**16  # bytes read at a time from the end of a file
LONGEST = 2**23  # bytes of a row


# Dense products in bfloat16, by the makers' data sheets, in FLOPs a second of what jax calls a
# device (of TPU v2 and v3 a core, half a chip).
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float:
    """The peak FLOP/s of a device by its name; 0 if unknown, as for CPUs."""
    known = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
    return PEAK_FLOPS[max(known, key=len)] if known else 0.0


def memory() -> dict[str, float]:
    """The peak memory so far in GB: of the fullest device, or of this process if devices do not
    report it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    # Linux counts in KiB, macOS in bytes.
    process_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return {"memory/peak_gb": max(peaks, default=process_peak) / 1e9}


class Counts(NamedTuple):
    """The inputs from which the counts of a row are computed."""

    examples_at: Callable[[int], int]
    """Finished updates → examples seen; batches may have several sizes."""
    costs: Costs = NO_COSTS


class MetricsFile:
    """Appends rows and flushes each, so that a killed run keeps all finished updates."""

    def __init__(
        self,
        path: Path,
        restored_step: int,
        examples_at: Callable[[int], int],
        costs: Costs = NO_COSTS,
    ) -> None:
        """Open the file, and remove the rows after `restored_step`, whose updates will be made
        again. `examples_at(step)` is the number of examples in `step` updates."""
        self._examples_at, self._costs = examples_at, costs
        self._hours = _cut_after(path, restored_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Mapping[str, Number]) -> Row:
        """Append a row, and return it with step, examples, hours and speed."""
        step_ms = row["time/step_ms"]
        assert not isinstance(step_ms, list)
        seconds = step_ms / 1000
        self._hours += seconds / 3600
        examples = self._examples_at(step)
        examples_of_step = examples - self._examples_at(step - 1)
        full: Row = {
            "step": step,
            "examples": examples,
            "hours": round(self._hours, 6),
            **row,
            **self._costs.speeds(examples_of_step / max(seconds, 1e-9)),
        }
        # JSON has no NaN and no infinity; they are written as null.
        finite = {name: _finite(value) for name, value in full.items()}
        try:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from None
        return full

    def sync(self) -> None:
        """Flush the file to the disk; called before each checkpoint."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `write` has reported a full disk
            self._file.close()


def _finite(value: Any) -> Any:
    """The number, or None if it is NaN or infinite; a list element by element."""
    if isinstance(value, list):
        return [_finite(number) for number in value]
    return value if math.isfinite(value) else None


def read(path: Path) -> list[Json]:
    """All rows. A last line that a crash truncated is skipped.

    Raises:
        ValueError: another line is damaged.
    """
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    rows = []
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise _damaged(path, number)
    return rows


def _damaged(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path}: line {number} is not a row of metrics; repair it, or move the file away"
    )


def _parse(line: str | bytes) -> Json | None:
    """The row in a line; None if the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    hours = row.get("hours")
    is_time = isinstance(hours, int | float) and not isinstance(hours, bool) and 0 <= hours < 1e9
    return row if is_time and 0 <= row["step"] < 2**62 else None


def _cut_after(path: Path, step: int) -> float:
    """Remove the rows after `step`, and return the hours trained until then. The file is read
    backwards, only as far as that row.

    Raises:
        ValueError: a line there is damaged.
    """
    if not path.is_file():
        path.touch()
    hours, last_step, size = 0.0, 0, 0
    with path.open("r+b") as file:
        for number, (start, line) in enumerate(_lines_backwards(file, path)):
            row = _parse(line)
            if row is None and number > 0:  # a crash may truncate the last line
                raise _damaged(path, path.read_bytes()[:start].count(b"\n") + 1)
            if row is not None and row["step"] <= step:
                hours, last_step, size = row["hours"], row["step"], start + len(line.rstrip())
                break
        file.truncate(size)
        file.seek(size)
        file.write(b"\n" if size else b"")
    if last_step < step:
        print(f"warning: {path} ends at step {last_step} of {step}", file=sys.stderr)
    return hours


def _lines_backwards(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line with its end) of a file, from the last line to the first."""
    place, rest = file.seek(0, os.SEEK_END), b""
    while place > 0:
        size = min(BLOCK, place)
        place -= size
        file.seek(place)
        rest = file.read(size) + rest
        if len(rest) > LONGEST:
            raise ValueError(
                f"{path} has a line of more than {LONGEST:,} bytes; repair it, or move it away"
            )
        first, *lines = rest.splitlines(keepends=True)
        for line in reversed(lines):
            yield place + len(rest) - len(line), line
            rest = rest[: len(rest) - len(line)]
        rest = first
    if rest:
        yield 0, rest

"""metrics.jsonl, the record of truth: one row per finished update; and what is counted for it."""

import contextlib
import json
import math
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from files import write_text


@dataclass(frozen=True)
class Costs:
    """What an example costs, for figures of speed; 0 where it is not known."""

    tokens: int = 0
    """Image tokens of an example."""
    flops: float = 0.0
    """Floating-point operations of an example in training, by formula."""
    peak_flops: float = 0.0
    """What all devices together could do in a second."""

    def speeds(self, examples_per_s: float) -> dict[str, float]:
        found = {"speed/examples_per_s": examples_per_s}
        if self.tokens:
            found["speed/tokens_per_s"] = examples_per_s * self.tokens
        if self.flops:
            found["speed/tflops"] = examples_per_s * self.flops / 1e12
        if self.flops and self.peak_flops:
            found["speed/utilisation"] = examples_per_s * self.flops / self.peak_flops
        return found


NO_COSTS = Costs()


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
    """Of one device, by its name; 0 where it is not known, as of CPUs."""
    known = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
    return PEAK_FLOPS[max(known, key=len)] if known else 0.0


def memory() -> dict[str, float]:
    """Most memory used so far in GB: of the fullest device where it tells, else of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    # Linux counts in KiB, macOS in bytes.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return {"memory/peak_gb": max(peaks, default=own) / 1e9}


class MetricsFile:
    """Appends rows, each flushed, so that a killed run has all it finished."""

    def __init__(
        self,
        path: Path,
        restored_step: int,
        examples_at: Callable[[int], int],
        costs: Costs = NO_COSTS,
    ) -> None:
        """Rows beyond `restored_step` are removed: their updates will be done again.
        `examples_at(step)` are the examples seen in so many updates."""
        self._examples_at, self._costs = examples_at, costs
        self._hours = _cut_after(path, restored_step)
        self._file = path.open("a")

    def write(self, step: int, row: dict[str, float]) -> dict[str, Any]:
        """Append a row; returns it with examples, hours and speed beside the step."""
        seconds = row["time/step_ms"] / 1000
        self._hours += seconds / 3600
        examples = self._examples_at(step)
        own = examples - self._examples_at(step - 1)
        full = {
            "step": step,
            "examples": examples,
            "hours": round(self._hours, 6),
            **row,
            **self._costs.speeds(own / max(seconds, 1e-9)),
        }
        # NaN and infinity are not JSON; null says that there was no number.
        finite = {name: value if math.isfinite(value) else None for name, value in full.items()}
        try:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from None
        return full

    def sync(self) -> None:
        """Down to the disk, before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was told of by `write`
            self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line cut off by a crash is left out.

    Raises:
        ValueError: another line is damaged.
    """
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "hours": float(row["hours"])})
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise ValueError(
                f"{path}: line {number} is no row of metrics; repair it, or move the file away"
            ) from None
    return rows


def _cut_after(path: Path, step: int) -> float:
    """Drop rows beyond `step`; returns the hours trained by then."""
    kept = [row for row in read(path) if row["step"] <= step]
    if len(kept) < step:
        print(f"warning: {path} has {len(kept)} of {step} rows", file=sys.stderr)
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept[-1]["hours"] if kept else 0.0

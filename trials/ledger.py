"""The list of a sweep's trials, FOLDER/trials.jsonl: one line of JSON for each start and each end.

A trial's settings are written before its process starts, so a killed sweep resumes with the same
ones.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.json_files import parse_json

LEDGER = "trials.jsonl"
End = Literal["finished", "stopped", "failed"]
ENDS: tuple[End, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    settings: Mapping[str, Any]
    """Flag → value, as the engine suggested them."""
    end: End | None = None
    """None = running or interrupted; "stopped" = stopped early by the engine."""
    values: tuple[float, ...] = ()
    """All logged values of the metric."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed."""

    @property
    def value(self) -> float | None:
        """The metric's last value; None if there is none, or it is NaN."""
        last = self.values[-1] if self.values else math.nan
        return last if math.isfinite(last) else None


def folder_of(sweep: Path, number: int) -> Path:
    """The run's folder."""
    return sweep / f"{number:03d}"


def read_ledger(folder: Path) -> list[Trial]:
    """The trials of a sweep's folder, in the order in which they began.

    Raises:
        ValueError: a line is damaged; its number is named. Half a last line, which a kill left, is
            skipped.
    """
    path = folder / LEDGER
    if not path.is_file():
        return []
    trial_of: dict[int, Trial] = {}
    *lines, _ = path.read_bytes().split(b"\n")  # the last is empty, or half a line
    for number, line in enumerate(lines, 1):
        row = parse_json(line, f"{path}, line {number}")
        try:
            trial = trial_of.get(row["trial"]) or Trial(row["trial"], dict(row["settings"]))
            if row.get("end") in ENDS:
                values = tuple(math.nan if v is None else float(v) for v in row["values"])
                trial = replace(
                    trial,
                    end=row["end"],
                    values=values,
                    seconds=float(row["seconds"]),
                    reason=str(row["reason"]),
                )
            trial_of[trial.number] = trial
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged: {error!r:.100}") from None
    return list(trial_of.values())


class Ledger:
    """Appends to a sweep's ledger."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        if self._path.is_file():  # half a line, which a kill left, goes
            text = self._path.read_bytes()
            os.truncate(self._path, text.rfind(b"\n") + 1)

    def begin(self, trial: Trial) -> None:
        """Append a trial's settings, before its process starts."""
        self._append({"trial": trial.number, "settings": dict(trial.settings)})

    def end(self, trial: Trial) -> None:
        """Append a trial's end."""
        self._append(
            {
                "trial": trial.number,
                "end": trial.end,
                "values": [value if math.isfinite(value) else None for value in trial.values],
                "seconds": round(trial.seconds, 1),
                "reason": trial.reason,
            }
        )

    def _append(self, row: Mapping[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def best(trials: Sequence[Trial], sign: int) -> Trial | None:
    """The finished trial with the best last value; None if none has one. Trials that were stopped
    early are not compared: their learning rate had not decayed."""
    done = [trial for trial in trials if trial.end == "finished" and trial.value is not None]
    return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

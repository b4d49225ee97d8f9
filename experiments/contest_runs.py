"""The runs of a contest: one process after the other, each with a line in the contest's log."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.json_files import Json
from experiments.contest import Result
from training import exits
from training.reports import metrics
from trials.processes import last_line, popen, wait_for_left_over
from trials.search import LOOK_SECONDS, Stop


def make_run(words: Sequence[str], folder: Path, log: Path) -> int:
    """Make a run, or resume it, in a process that ends with this one; its exit code. Stop signals
    and Ctrl-C are passed on to it, and it saves its state. A second Ctrl-C does not wait."""
    wait_for_left_over(folder)
    with log.open("ab") as file:
        process = popen([sys.executable, *words[1:]], file)
    with Stop().listening(exits.STOP_SIGNALS) as stop:
        is_told = False
        while True:
            try:
                return process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                if stop.is_asked and not is_told:
                    process.terminate()
                    is_told = True
            except KeyboardInterrupt:
                process.kill()
                raise


def check_result(metric: str, folder: Path, code: int, log: Path) -> None:
    """Raise ValueError if a run ended without a result. A run that diverged has one: it missed the
    target. A run that was killed, or could not start, would miss it for ever."""
    path = folder / "metrics.jsonl"
    rows = metrics.read(path) if path.is_file() else []
    last = rows[-1] if rows else {}
    if code == 0 and metric not in last:
        logged = ", ".join(sorted(name for name in last if name.startswith("eval/"))) or "none"
        raise ValueError(f"{folder} never logged the contest's metric {metric}; it has {logged}")
    if code and not last.get("guard/event"):
        raise ValueError(
            f"{folder} ended with exit code {code}, and did not diverge: {last_line(log)}; the "
            "same command resumes once that is mended"
        )


def append(log: Path, line: Json) -> None:
    """Append a line, in place of half a line that a kill left."""
    if log.is_file():
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def measured(metric: str, folder: Path, is_done: bool, wall: float) -> Json:
    """The value and times of a run, from its metrics.jsonl. The extra time of the first update
    counts as compilation. A failed run has no value."""
    path = folder / "metrics.jsonl"
    rows = metrics.read(path) if path.is_file() else []
    times = [row["time/step_ms"] / 1000 for row in rows if row.get("time/step_ms") is not None]
    usual = float(np.median(times[1:])) if len(times) > 1 else 0.0
    compiling = max(times[0] - usual, 0.0) if times else 0.0
    training = sum(times) - compiling
    value = rows[-1].get(metric) if rows and is_done else None
    return {
        "value": value,
        "train_seconds": round(training, 2),
        "compile_seconds": round(compiling, 2),
        "other_seconds": round(max(wall - training - compiling, 0.0), 2),
    }


def read_log(path: Path) -> list[Result]:
    """The results in a log, without half a last line, which a kill left. Raises ValueError, which
    names the line, if one is damaged."""
    if not path.is_file():
        return []
    names, results = [field.name for field in dataclasses.fields(Result)], []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["value"] = math.inf if row["value"] is None else float(row["value"])
            for name in ("train_seconds", "compile_seconds", "other_seconds"):
                row[name] = math.nan if row[name] is None else float(row[name])
            results.append(Result(**{name: row[name] for name in names}))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged: {error!r:.100}") from None
    return results

"""A trial as a separate process. Its output goes to FOLDER/NNN.log, and its metric is read from its
metrics.jsonl."""

import contextlib
import ctypes
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from trials.ledger import Trial, folder_of

LEFT_OVER_SECONDS = 120
"""Seconds for a run of a killed sweep to save and end."""
_PR_SET_PDEATHSIG = 1  # Linux' sys/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


class MetricTail:
    """The values of a metric in a metrics.jsonl that is being written."""

    def __init__(self, path: Path, metric: str | None) -> None:
        self._path, self._metric = path, metric
        self._at = 0
        self._last = b""
        """The line that ends at `_at`."""
        self._rows: list[tuple[int, float]] = []
        self.names: set[str] = set()
        """Names of numbers in the rows, for the message that the metric is missing."""

    def read(self) -> list[float]:
        """All values so far, oldest first. Rows that a resume wrote again count once."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at - len(self._last))
            if file.read(len(self._last)) != self._last:
                # A resume or a rollback removed rows that it writes again.
                self._at, self._last, self._rows = 0, b"", []
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at, self._last = self._at + len(line), line
                self._add(line)
        return [value for _, value in self._rows]

    def _add(self, line: bytes) -> None:
        row = json.loads(line)
        step = int(row.get("step", 0))
        self.names |= row.keys()
        while self._rows and self._rows[-1][0] >= step:
            self._rows.pop()
        if self._metric in row:
            value = row[self._metric]
            self._rows.append((step, math.nan if value is None else float(value)))


@dataclass(frozen=True)
class Ended:
    """A trial that ran in this process and has ended, in the form of a process."""

    returncode: int

    def poll(self) -> int:
        return self.returncode

    wait = poll

    def send_signal(self, number: int) -> None:
        """Nothing: it has ended."""

    def kill(self) -> None:
        """Nothing: it has ended."""


@dataclass
class Running:
    """A trial whose process runs."""

    trial: Trial
    process: subprocess.Popen[bytes] | Ended
    log: Path
    tail: MetricTail
    began: float = field(default_factory=time.monotonic)
    judged: int = 0
    """Number of values that the engine has judged."""
    stopped_at: int | None = None
    """Number of values at which the engine stopped it."""
    is_asked_to_stop: bool = False
    """True after a request to stop."""

    def stop(self) -> None:
        """Ask it to save and end, once."""
        if not self.is_asked_to_stop and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.is_asked_to_stop = True

    def so_far(self, count: int) -> Trial:
        """The trial with its first `count` values."""
        return replace(self.trial, values=tuple(self.tail.read()[:count]))

    def ended(self) -> Trial:
        """The finished trial. `end` is None if it was interrupted and must be resumed."""
        code = self.process.returncode
        values = tuple(self.tail.read()[: self.stopped_at])
        seconds = round(self.trial.seconds + time.monotonic() - self.began, 1)  # as in the ledger
        trial = replace(self.trial, values=values, seconds=seconds)
        if self.stopped_at is not None:
            return replace(trial, end="stopped")
        if code == 0:
            return replace(trial, end="finished")
        if self.is_asked_to_stop:
            return trial
        return replace(trial, end="failed", reason=f"exit code {code}: {last_line(self.log)}")


def start(sweep: Path, trial: Trial, words: Sequence[str], metric: str | None) -> Running:
    """Start or resume a trial. Its process ends when this process ends, however this one ends."""
    folder = folder_of(sweep, trial.number)
    wait_for_left_over(folder)
    log = folder.with_suffix(".log")
    with log.open("ab") as file:
        process = popen(words, file)
    return Running(trial, process, log, MetricTail(folder / "metrics.jsonl", metric))


def run_here(
    sweep: Path, trial: Trial, metric: str | None, train: Callable[[Path], int], stopped: int
) -> Running:
    """Run a trial in this process by calling `train` with its log. `stopped` is the exit code of a
    run that must be resumed."""
    folder, began = folder_of(sweep, trial.number), time.monotonic()
    wait_for_left_over(folder)
    log = folder.with_suffix(".log")
    code = train(log)
    tail = MetricTail(folder / "metrics.jsonl", metric)
    return Running(trial, Ended(code), log, tail, began, is_asked_to_stop=code == stopped)


def last_line(log: Path) -> str:
    """The last line with text, shortened."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"
    return "it said nothing"


def popen(words: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that ends when this one ends, however this one ends."""
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is the sweep's, which passes one SIGTERM on
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def _end_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_for_left_over(folder: Path) -> None:
    """Wait until no process of an earlier, killed sweep writes into the folder."""
    until = time.monotonic() + LEFT_OVER_SECONDS
    while (left := _users(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    if left:
        raise ValueError(f"process {left[0]} of an earlier sweep still writes into {folder}")


def _users(folder: Path) -> list[int]:
    """Processes that were started with this folder as output_dir, if the system lists them."""
    word = f"--output_dir={folder}".encode()
    users = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in path.read_bytes().split(b"\0") and _lives(path.parent):
                users.append(int(path.parent.name))
    return users


def _lives(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"

"""The tracker: sends metrics to metrics.jsonl, to the terminal, and on request to wandb and
TensorBoard."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from common.durations import spoken
from training import exits
from training.config import TrackerConfig, TrainingConfig
from training.reports.board import Board
from training.reports.metrics import Counts, MetricsFile, memory
from training.reports.mirror import Mirror
from training.update.observables import Number
from training.update.step_metrics import evaluated, numbers

SHOWN = ("train/loss", "speed/examples_per_s")
RARE = ("eval/", "ratio/")
"""Prefixes of rare metrics, whose rows are always shown and mirrored."""
# Seconds for wandb to end: after the last update, and when training was stopped.
WAIT_AT_END, WAIT_AT_STOP = 30.0, 3.0


class Tracker:
    """Writes each row to metrics.jsonl, and every `log_every`th row to the other places."""

    def __init__(
        self,
        config: TrackerConfig,
        training: TrainingConfig,
        folder: Path,
        restored_step: int,
        settings: Mapping[str, object],
        counts: Counts,
        is_writer: bool = True,
    ) -> None:
        """`settings` is the resolved configuration, for the mirror. With several processes one is
        the writer. If rollbacks are possible, the mirror gets rows only at `release` and at the
        end."""
        self._may_rewind = training.on_spike == "rollback"
        self._held: list[tuple[int, Callable[[], None]]] = []
        self._open = lambda step: MetricsFile(folder / "metrics.jsonl", step, *counts)
        self._file = self._open(restored_step) if is_writer else None
        self._log_every = max(training.log_every, 1)
        self._steps = training.steps
        self._restored_step = self.step = restored_step
        self.row: Mapping[str, Number] = {}
        """The metrics of the newest update; `step` is its number."""
        self._first: tuple[int, float] | None = None
        """The first update in this process, which waited for its compilation, and its time."""
        self._bar: tqdm | None = None  # drawn with the first row, below earlier output
        config = config if is_writer else TrackerConfig()
        self._mirror = Mirror(config, folder, settings)
        self._board = Board(config, folder, restored_step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()
        self.release(self.step)
        self._board.close()
        is_finished = self.step == self._steps
        ended = exits.FINISHED if is_finished else exits.STOPPED
        seconds = WAIT_AT_END if is_finished else WAIT_AT_STOP
        self._mirror.finish(ended if error_type is None else exits.FAULT, seconds)

    def rewind(self, step: int) -> None:
        """Remove the rows after an earlier step, from which training continues."""
        self.step = step
        self._held = [(row_step, send) for row_step, send in self._held if row_step <= step]
        self._board.rewind(step)
        if self._file is not None:
            self._file.close()
            self._file = self._open(step)

    def record(self, step: int, row: Mapping[str, Number]) -> None:
        """Record the metrics of a finished update."""
        self.step, self.row = step, row
        self._first = self._first or (step, time.monotonic())
        if self._file is None:
            return
        is_rare = any(name.startswith(RARE) for name in row)
        is_shown = step % self._log_every == 0 or is_rare or step == self._steps
        full = self._file.write(step, {**row, **(memory() if is_shown else {})})
        self._advance(step)
        if is_shown:
            self._send(step, lambda: self._mirror.log(full, step))
            self._board.log(full, step)
            shown = numbers(full)
            self._show(step, {k: shown[k] for k in SHOWN if k in shown} | evaluated(row))

    def image(self, step: int, name: str, path: Path) -> None:
        """Send a picture file of the run's folder to the mirror."""
        self._send(step, lambda: self._mirror.image(name, path, step))
        self._board.image(name, path, step)

    def release(self, step: int) -> None:
        """Send all rows up to this step to the mirror: no rollback can remove them any more."""
        for row_step, send in self._held:
            if row_step <= step:
                send()
        self._held = [(row_step, send) for row_step, send in self._held if row_step > step]

    def _send(self, step: int, send: Callable[[], None]) -> None:
        """Send to the mirror now or, if a rollback may remove the row, later: wandb cannot delete
        rows."""
        if self._may_rewind:
            self._held.append((step, send))
        else:
            send()

    def sync(self) -> None:
        """Flush metrics.jsonl; called before each checkpoint."""
        if self._file is not None:
            self._file.sync()

    def _advance(self, step: int) -> None:
        if self._bar is None:
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=self._steps, initial=self._restored_step, unit="step", disable=quiet
            )
        self._bar.update(step - self._bar.n)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        """Print a row and the time left. On a terminal the progress bar shows the loss, and only
        evaluations get a line."""
        is_bar = self._bar is not None and not self._bar.disable
        if self._bar is not None and is_bar:
            self._bar.set_postfix_str(f"loss {values['train/loss']:.3f}", refresh=False)
        if not is_bar or any(name.startswith("eval/") for name in values):
            text = "  ".join(f"{k.removeprefix('train/')} {v:.4g}" for k, v in values.items())
            tqdm.write(f"step {step}/{self._steps}  {text}{self._left(step)}", file=sys.stderr)

    def _left(self, step: int) -> str:
        """A text with the time until the last update, at the speed so far; empty at both ends."""
        if self._first is None or not self._first[0] < step < self._steps:
            return ""
        seconds = (time.monotonic() - self._first[1]) / (step - self._first[0])
        return f"  {spoken(seconds * (self._steps - step))} left"

"""The sweep: suggest a trial, start it, read its metric, stop it early, record it, until the budget
is used."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from trials import engine, processes
from trials.ledger import Ledger, Trial, folder_of, read_ledger
from trials.processes import Running
from trials.sweep_file import Sweep

LOOK_SECONDS = 0.2
HOPELESS = 3
"""Number of failed first trials that ends the sweep, because the next ones would fail, too."""

Words = Callable[[Trial, Path], Sequence[str]]
"""(trial, its run's folder) → the command that makes it"""
OnEnd = Callable[[Trial], None]
Start = Callable[[Path, Trial, Sequence[str], str | None], Running]
"""(the sweep's folder, trial, its command, the metric's name) → the started trial"""


class Stop:
    """A request to stop the sweep. A second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextlib.contextmanager
    def listening(self, signals: Sequence[signal.Signals]) -> Iterator["Stop"]:
        """A context in which these signals and Ctrl-C request the stop."""
        before = {number: signal.signal(number, self._ask) for number in (*signals, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_asked = True


@dataclass
class Search:
    """A sweep in a folder."""

    sweep: Sweep
    folder: Path
    words: Words
    on_end: OnEnd
    """Called with each trial that has ended."""
    count: int | None
    """Most trials; None: until the grid has been walked."""
    parallel: int = 1
    seed: int = 0
    start: Start = processes.start
    _running: list[Running] = field(default_factory=list)

    def run(self, stop: Stop) -> list[Trial]:
        """Try settings until the budget is used or `stop` is asked; returns all trials.

        Raises:
            ValueError: the first trials failed, or do not log the metric.
        """
        trials = {trial.number: trial for trial in read_ledger(self.folder)}
        ledger = Ledger(self.folder)
        try:
            while True:
                while not stop.is_asked and len(self._running) < self.parallel:
                    trial = self._next(trials, ledger)
                    if trial is None:
                        break
                    trials[trial.number] = trial
                    self._start(trial)
                if not self._running:
                    return list(trials.values())
                time.sleep(LOOK_SECONDS)
                for running in list(self._running):
                    self._look(running, trials, ledger, stop)
        finally:
            self._kill()

    def _next(self, trials: dict[int, Trial], ledger: Ledger) -> Trial | None:
        """An interrupted trial, else a new one; None if there are no more."""
        busy = {running.trial.number for running in self._running}
        for trial in trials.values():
            if trial.end is None and trial.number not in busy:
                return trial
        if self.count is not None and len(trials) >= self.count:
            return None
        settings = engine.suggest(
            self.sweep.settings, list(trials.values()), len(trials), self.seed
        )
        if settings is None:
            return None
        trial = Trial(len(trials), settings)
        ledger.begin(trial)
        return trial

    def _start(self, trial: Trial) -> None:
        words = self.words(trial, folder_of(self.folder, trial.number))
        self._running.append(self.start(self.folder, trial, words, self.sweep.metric))

    def _look(self, running: Running, trials: dict[int, Trial], ledger: Ledger, stop: Stop) -> None:
        has_ended = running.process.poll() is not None  # before the last rows are read
        self._judge(running, trials)
        if stop.is_asked:
            running.stop()
        if not has_ended:
            return
        self._running.remove(running)
        trial = self._checked(running, running.ended())
        trials[trial.number] = trial
        self.on_end(trial)
        if trial.end is not None:
            ledger.end(trial)
        _check_hope(trials.values())

    def _judge(self, running: Running, trials: dict[int, Trial]) -> None:
        """Stop a trial at the first value at which it is behind. A value is judged only with the
        trial's values up to it, so the outcome does not depend on when it is judged."""
        others = [trial for number, trial in trials.items() if number != running.trial.number]
        count = len(running.tail.read())
        while running.stopped_at is None and running.judged < count:
            running.judged += 1
            if engine.is_behind(self.sweep.settings, others, running.so_far(running.judged)):
                running.stopped_at = running.judged
                running.stop()

    def _checked(self, running: Running, trial: Trial) -> Trial:
        """The trial; marked failed if it finished and never logged the metric."""
        metric = self.sweep.metric
        if trial.end != "finished" or metric is None or trial.values:
            return trial
        near = sorted(running.tail.names)
        reason = f"metric {metric} was never logged; there are {', '.join(near) or 'no rows'}"
        return replace(trial, end="failed", reason=reason)

    def _kill(self) -> None:
        for running in self._running:
            running.process.kill()
            running.process.wait()


def _check_hope(trials: Iterable[Trial]) -> None:
    ended = [trial for trial in trials if trial.end is not None]
    if len(ended) >= HOPELESS and all(trial.end == "failed" for trial in ended):
        raise ValueError(f"all {len(ended)} trials failed, the last with {ended[-1].reason}")

"""training.profile: a trace of some updates by jax's profiler, in RUN/profile."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from training.loop import Hook
from training.spans import parse_trace

FOLDER = "profile"


class Trace:
    """Traces the updates of a range, in process 0. Without a range nothing is traced."""

    def __init__(self, text: str, run: Path) -> None:
        """`text` is training.profile."""
        self._start, self._stop = parse_trace(text) if text else (0, 0)
        self._folder, self._is_on = run / FOLDER, False

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[Hook]:
        """A context with the hook that starts and stops the trace, for a loop that starts after
        `step` updates."""
        self._update(step)
        try:
            yield _TraceHook(0, self._act, self)
        finally:
            self._end()

    def is_due(self, step: int) -> bool:
        """True if tracing begins or ends after this many updates."""
        return step in (self._start, self._stop) and self._stop > 0

    def _act(self, step: int, _: object) -> None:
        self._update(step)

    def _update(self, step: int) -> None:
        is_within = self._start <= step < self._stop and jax.process_index() == 0
        if is_within and not self._is_on:
            self._begin()
        if not is_within:
            self._end()

    def _begin(self) -> None:
        try:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True
        except (RuntimeError, OSError) as error:  # another profiler, or no place to write
            self._warn(error)

    def _end(self) -> None:
        if not self._is_on:
            return
        self._is_on = False
        try:
            jax.profiler.stop_trace()
            print(f"{self._folder}: the trace of updates {self._start + 1} to {self._stop}")
        except (RuntimeError, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        text = " ".join(str(error).split())
        print(f"warning: no trace in {self._folder}: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _TraceHook(Hook):
    """A hook that is due at both ends of the range."""

    trace: Trace

    def is_due(self, step: int, is_last: bool) -> bool:
        return self.trace.is_due(step)

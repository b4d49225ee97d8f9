"""The progress of an encoding: a bar on a terminal, elsewhere a line from time to time."""

import time

from tqdm import tqdm

from common.durations import spoken

_LINES_EVERY = 10.0  # seconds, at least


class Progress:
    """Counts pictures, and shows their number per second and the time left."""

    def __init__(self, name: str, total: int, done: int = 0, *, is_shown: bool = True) -> None:
        self._name, self._total = name, total
        self._start, self._first, self._done = time.monotonic(), done, done
        self._last_shown, self._is_shown = self._start, is_shown
        self._bar = tqdm(
            desc="encoding",
            total=total,
            initial=done,
            unit=" pictures",
            disable=None if is_shown else True,
        )

    def advance(self, count: int = 1) -> None:
        """Count pictures that this process has read. Without a bar it prints a line, at most one
        every ten seconds."""
        self._show(self._done + count)

    def reach(self, done: int) -> None:
        """Set the number of pictures in finished shards, those of other processes included."""
        self._show(done)

    def _show(self, done: int) -> None:
        self._done = done
        if not self._bar.disable:
            self._bar.update(done - self._bar.n)
        elif self._is_shown and time.monotonic() - self._last_shown >= _LINES_EVERY:
            self._last_shown = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        """Such as "records/mine: 20,480 of 100,000 pictures, 1,024 a second, 78 s left"."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._first) / seconds
        left = f", {spoken((self._total - self._done) / rate)} left" if rate > 0 else ""
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        return f"{self._name}: {self._done:,} of {self._total:,} pictures, {speed} a second{left}"

    def close(self) -> None:
        """Stop updating the bar."""
        self._bar.close()

"""The only training loop, for the transformer and for the VQGAN."""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from training.state import TrainState

Row = dict[str, float]
# More than the loss scale needs to fall from its start to its floor.
MOST_SKIPPED = 40


@dataclass(frozen=True)
class Hook:
    """Periodic work after finished updates: `action(step, state)` may return values for that
    step's row of metrics. `every` = 0 means only after the last update, where each hook runs."""

    every: int
    action: Callable[[int, TrainState], Mapping[str, float] | None]

    def is_due(self, step: int, is_last: bool) -> bool:
        return is_last or (self.every > 0 and step % self.every == 0)


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a wish that the loop grants after the update at hand. A second
    Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def fit(
    step: Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, Mapping[str, Any]]],
    state: TrainState,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    steps: int,
    *,
    record: Callable[[int, Row], None],
    hooks: Sequence[Hook] = (),
    save: Hook,
    between: Callable[[int, TrainState], TrainState] | None = None,
    stop: StopSignal | None = None,
) -> TrainState:
    """Train until `steps` updates are finished in all, or until `stop` is received.

    `batch_at(n)` is the batch of the update that follows n finished ones. Each update's metrics are
    fetched only after the next one has been dispatched, which keeps the accelerator busy; before a
    hook runs they are fetched at once, so that a checkpoint never runs ahead of the metrics.
    `between(n, state)` may replace the state before that update (a VQGAN renews its codebook).
    """
    clock, watch = _Clock(), _Watch()
    waiting: tuple[int, Mapping[str, Any]] | None = None

    def deliver(extra: Mapping[str, float] | None = None) -> None:
        nonlocal waiting
        if waiting is not None:
            done, metrics = waiting
            row = {name: float(value) for name, value in metrics.items()}
            watch.check(done, row)
            record(done, {**row, "time/step_ms": clock.lap() * 1000, **(extra or {})})
        waiting = None

    done = saved = int(state.step)
    for n in range(done, steps):
        if stop is not None and stop.received:
            break
        if between is not None:
            state = between(n, state)
        state, metrics = step(state, batch_at(n))
        deliver()
        done = n + 1
        waiting = (done, metrics)
        due = [hook for hook in hooks if hook.is_due(done, is_last=done == steps)]
        is_saved = save.is_due(done, is_last=False)
        if due or is_saved:
            _block(metrics)
            with clock.paused():
                extra: dict[str, float] = {}
                for hook in due:
                    extra |= hook.action(done, state) or {}
            deliver(extra)
        if is_saved:
            with clock.paused():
                save.action(done, state)
            saved = done
    deliver()
    if done != saved:
        save.action(done, state)
    return state


def _block(metrics: Mapping[str, Any]) -> None:
    for value in metrics.values():
        value.block_until_ready()


class _Watch:
    """Stops a run that has gone wrong before it writes a checkpoint of it."""

    def __init__(self) -> None:
        self._skipped = 0

    def check(self, step: int, row: Row) -> None:
        """Raises ValueError when the loss is no number, or float16 has skipped too long."""
        if "loss_scale/skipped" in row:
            self._skipped = self._skipped + 1 if row["loss_scale/skipped"] else 0
            if self._skipped >= MOST_SKIPPED:
                raise ValueError(
                    f"float16 overflowed in {self._skipped} updates running, up to step {step}; "
                    "train with compute_dtype bfloat16 or float32, or a lower learning rate"
                )
        elif not math.isfinite(row.get("train/loss", 0.0)):
            raise ValueError(
                f"the loss is {row['train/loss']} at step {step}; no checkpoint of it was written. "
                "Lower optim.learning_rate in a new run"
            )


class _Clock:
    """Seconds of training between two laps, without those spent in hooks."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds

    def paused(self) -> "_Pause":
        return _Pause(self)


class _Pause:
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock._since += time.perf_counter() - self._start

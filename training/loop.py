"""The only training loop, for the transformer and for the VQGAN."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from training.signals import StopSignal
from training.update.observables import OBSERVED, unpack
from training.update.state import TrainState

Row = dict[str, Any]
"""Numbers by name; some observables are vectors, as lists."""
Show = Callable[[int, str, Path], None]
"""(step, name, file of a picture) → nothing"""


@dataclass(frozen=True)
class Hook:
    """Periodic work after finished updates: `action(step, state)` may return values for that
    step's row of metrics, and files of pictures. `every` = 0 means only after the last update,
    where each hook runs but one with −1."""

    every: int
    action: Callable[[int, TrainState], Mapping[str, float] | Mapping[str, Path] | None]

    def is_due(self, step: int, is_last: bool) -> bool:
        return (is_last and self.every >= 0) or (self.every > 0 and step % self.every == 0)


class RollbackError(Exception):
    """Raised by a watch: the loop is left at once, and nothing of it is saved."""

    def __init__(self, step: int, text: str) -> None:
        """`step`: the update that the run goes back before."""
        super().__init__(text)
        self.step = step


@dataclass(frozen=True)
class Outlets:
    """Receivers of a loop's rows and pictures."""

    record: Callable[[int, Row], None]
    """Gets each row."""
    show: Show = lambda step, name, picture: None
    """Gets each picture of a hook."""
    watch: Callable[[int, Row], None] = lambda step, row: None
    """Sees each row first, and may raise RollbackError."""
    is_over: Callable[[], bool] = lambda: False
    """True once a row has decided that the run ends; the state is saved first, as at a stop."""


@dataclass(frozen=True)
class Work:
    """Work of a loop besides the updates."""

    save: Hook
    rescue: Callable[[int, TrainState], None] = lambda step, state: None
    """Gets the last state when an error ends the loop, before the error is raised."""
    hooks: Sequence[Hook] = ()
    between: Callable[[int, TrainState], TrainState] | None = None
    """(n, state) → the state that the update after n finished ones starts from: a VQGAN renews its
    codebook."""


def fit(
    step: Callable[[TrainState, dict[str, np.ndarray]], tuple[TrainState, Mapping[str, object]]],
    state: TrainState,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    steps: int,
    outlets: Outlets,
    work: Work,
    stop: StopSignal | None = None,
) -> TrainState:
    """Return the state after `steps` updates in all, or after fewer if `stop` is granted.

    `batch_at(n)` is the batch of the update that follows n finished ones. Each update's metrics are
    fetched only after the next update has been dispatched, which keeps the accelerator busy. Before
    a hook runs they are fetched at once, so a checkpoint is never ahead of the metrics. Before a
    batch of another size the state is saved: a stop need not wait for the compiler. An error, such
    as an unreadable batch, is raised once the state before it is saved.
    """
    clock = _Clock()
    rows = _Rows(clock, outlets.watch, outlets.record)
    first = done = int(state.step)
    save_once = _Saves(clock, work.save, first)
    shapes: dict[str, tuple[int, ...]] = {}
    renew = work.between or (lambda n, state: state)
    try:
        for n in range(first, steps):
            if outlets.is_over() or (stop is not None and stop.is_granted()):
                break
            with clock.waiting():
                batch = batch_at(n)
            if n > first and _shapes(batch) != shapes:  # the step is compiled anew: this takes long
                rows.deliver()
                save_once(n, state)
                _shield(stop, lambda: None)
            shapes = _shapes(batch)
            state, metrics = step(renew(n, state), batch)
            done = n + 1
            _shield(stop, None)
            rows.hold(done, metrics)
            due = [hook for hook in work.hooks if hook.is_due(done, is_last=done == steps)]
            is_saved = work.save.is_due(done, is_last=False)
            if due or is_saved:
                jax.block_until_ready(metrics)
                save = partial(work.save.action, done, state)
                with clock.paused(), _rescued(stop, rows.deliver, save):
                    extra = _run_hooks(due, done, state, outlets.show)
                rows.deliver(extra)
            if is_saved:
                save_once(done, state)
        rows.deliver()
        save_once(done, state)
    except RollbackError:
        raise
    except Exception:
        if done > first:
            rows.deliver_if_possible()
            work.rescue(done, state)
        raise
    return state


def _shield(stop: StopSignal | None, rescue: Callable[[], None] | None) -> None:
    if stop is not None:
        stop.shield(rescue)


def _shapes(batch: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(array) for name, array in batch.items()}


class _Saves:
    """Saves a step unless it was the last one saved; its time is not counted as training."""

    def __init__(self, clock: "_Clock", save: Hook, step: int) -> None:
        self._clock, self._save, self._step = clock, save, step

    def __call__(self, step: int, state: TrainState) -> None:
        if step != self._step:
            with self._clock.paused():
                self._save.action(step, state)
            self._step = step


class _Rows:
    """Holds an update's metrics until the next update is under way; fetching them waits for it."""

    def __init__(
        self,
        clock: "_Clock",
        watch: Callable[[int, Row], None],
        record: Callable[[int, Row], None],
    ) -> None:
        self._clock, self._watch, self._record = clock, watch, record
        self._held: tuple[int, Mapping[str, Any]] | None = None

    def hold(self, done: int, metrics: Mapping[str, object]) -> None:
        """Hold a row, and deliver the one held before."""
        before, self._held = self._held, (done, metrics)
        self._deliver(before, {})

    def deliver(self, extra: Mapping[str, float] | None = None) -> None:
        """Watch and record the held row, with the values of hooks."""
        held, self._held = self._held, None
        self._deliver(held, extra or {})

    def deliver_if_possible(self) -> None:
        """As `deliver`, after an error, beside which another one is not worth a word."""
        with contextlib.suppress(Exception):
            self.deliver()

    def _deliver(
        self, held: tuple[int, Mapping[str, Any]] | None, extra: Mapping[str, float]
    ) -> None:
        if held is None:
            return
        done, metrics = held
        row = to_row(metrics)
        self._watch(done, row)
        self._record(done, {**row, **self._clock.lap(), **extra})


def _run_hooks(due: Sequence[Hook], done: int, state: TrainState, show: Show) -> Row:
    """Run the hooks and return their numbers by name; their pictures are shown."""
    numbers: Row = {}
    for hook in due:
        for name, value in (hook.action(done, state) or {}).items():
            if isinstance(value, Path):
                show(done, name, value)
            else:
                numbers[name] = value
    return numbers


def _rescued(
    stop: StopSignal | None, deliver: Callable[[], None], save: Callable[[], Any]
) -> contextlib.AbstractContextManager[None]:
    """A context for hooks, which may compile for long: meanwhile the state can be saved without
    them. If several processes hold the state, all of them must take part."""
    if stop is None or jax.process_count() > 1:
        return contextlib.nullcontext()

    def rescue() -> None:
        deliver()
        save()

    return stop.shielded(rescue)


def to_row(metrics: Mapping[str, object]) -> Row:
    """The row of an update: its metrics as floats, and the observables that were due."""
    values = jax.device_get(dict(metrics))
    observed = unpack(values.pop(OBSERVED, ()))
    return {**{name: float(value) for name, value in values.items()}, **observed}


class _Clock:
    """Seconds of training between two laps, without those spent in hooks."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0

    def lap(self) -> Row:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        waited, self._waited = self._waited, 0.0
        return {"time/step_ms": seconds * 1000, "time/data_ms": waited * 1000}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

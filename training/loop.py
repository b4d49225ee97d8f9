"""The training loop of every trainer: `fit`."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from training.signals import NO_STOP, Stop
from training.update.state import TrainState
from training.update.step_metrics import Row, StepMetrics, to_row

H = TypeVar("H", bound=Mapping[str, object])
"""This process's rows of a batch: arrays by name."""
Show = Callable[[int, str, Path], None]
"""(step, name, path of a picture) → None"""
Between = Callable[[int, TrainState], TrainState]
"""(n, state after n updates) → the state that update n + 1 starts from. A VQGAN replaces unused
codes here."""


@dataclass(frozen=True)
class Hook:
    """Work after every `every`th update, and after the last one. 0 = only after the last; −1 =
    never.

    `action(step, state)` may return numbers, which join that step's metrics, and paths of
    pictures.
    """

    every: int
    action: Callable[[int, TrainState], Mapping[str, float] | Mapping[str, Path] | None]

    def is_due(self, step: int, is_last: bool) -> bool:
        return (is_last and self.every >= 0) or (self.every > 0 and step % self.every == 0)


class RollbackError(Exception):
    """Raised by `Callbacks.watch`: the loop ends, and saves nothing."""

    def __init__(self, step: int, text: str) -> None:
        """`step`: the update that the run goes back before."""
        super().__init__(text)
        self.step = step


@dataclass(frozen=True)
class Callbacks:
    """Functions that the loop calls with metrics, pictures and states."""

    record: Callable[[int, Row], None]
    """(step, metrics), after each update."""
    show: Show = lambda step, name, picture: None
    """(step, name, path), for each picture that a hook returns."""
    watch: Callable[[int, StepMetrics], None] = lambda step, metrics: None
    """(step, metrics), before `record`; it may raise RollbackError."""
    is_over: Callable[[], bool] = lambda: False
    """True once the metrics have ended the run; the state is saved first, as at a stop."""
    rescue: Callable[[int, TrainState], None] = lambda step, state: None
    """(step, last state), when an error ends the loop, before the error is raised."""


@dataclass(frozen=True)
class Hooks:
    """The loop's work beside the updates."""

    save: Hook
    periodic: Sequence[Hook] = ()
    """Evaluation, pictures, and the like; they run before a save of the same step."""
    between: Between = lambda n, state: state


def fit(
    step: Callable[[TrainState, H], tuple[TrainState, StepMetrics]],
    state: TrainState,
    batch_at: Callable[[int], H],
    steps: int,
    callbacks: Callbacks,
    hooks: Hooks,
    stop: Stop = NO_STOP,
) -> TrainState:
    """Train until `steps` updates are finished, or until `stop`, and return the state.

    `step(state, batch)` is the compiled update; `batch_at(n)` is the batch of update n + 1. The
    metrics of an update are fetched after the next update is dispatched, so the accelerator stays
    busy. Before a hook or a save they are fetched at once, so a checkpoint is never ahead of the
    metrics. A batch of another shape makes jax compile again; the state is saved before it, so that
    a stop need not wait for the compiler. An error, such as an unreadable batch, is raised after
    the last state is saved.
    """
    first = done = int(state.step)
    clock = _Clock()
    rows = _Rows(clock, callbacks)
    save = _Saves(clock, rows, hooks.save, first)
    shapes = None
    try:
        while done < steps and not (callbacks.is_over() or stop.is_granted()):
            with clock.waiting():
                batch = batch_at(done)
            if shapes not in (None, _shapes(batch)):  # jax compiles again, which takes long
                save(done, state)
                stop.allow_end(save=lambda: None)
            shapes = _shapes(batch)
            state, metrics = step(hooks.between(done, state), batch)
            done += 1
            stop.forbid_end()
            rows.hold(done, metrics)
            due = [hook for hook in hooks.periodic if hook.is_due(done, is_last=done == steps)]
            is_saved = hooks.save.is_due(done, is_last=False)
            if due or is_saved:
                jax.block_until_ready(metrics)
                with clock.paused(), _stop_saves(stop, partial(save, done, state)):
                    extra = _run_hooks(due, done, state, callbacks.show)
                rows.deliver(extra)
            if is_saved:
                save(done, state)
        save(done, state)
    except RollbackError:
        raise
    except Exception:
        if done > first:
            rows.deliver_if_possible()
            callbacks.rescue(done, state)
        raise
    return state


def _shapes(batch: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    return jax.tree.map(np.shape, dict(batch))


class _Rows:
    """Holds the metrics of an update until the next one is dispatched: fetching them waits for the
    device."""

    def __init__(self, clock: "_Clock", callbacks: Callbacks) -> None:
        self._clock, self._callbacks = clock, callbacks
        self._held: tuple[int, StepMetrics] | None = None

    def hold(self, done: int, metrics: StepMetrics) -> None:
        """Hold a row, and deliver the one held before."""
        before, self._held = self._held, (done, metrics)
        self._deliver(before, {})

    def deliver(self, extra: Row | None = None) -> None:
        """Pass the held metrics to `watch` and `record`, with `extra` numbers of hooks."""
        held, self._held = self._held, None
        self._deliver(held, extra or {})

    def deliver_if_possible(self) -> None:
        """`deliver` after an error, which counts more than an error of `deliver`."""
        with contextlib.suppress(Exception):
            self.deliver()

    def _deliver(self, held: tuple[int, StepMetrics] | None, extra: Row) -> None:
        if held is None:
            return
        done, metrics = held
        metrics = jax.device_get(metrics)
        self._callbacks.watch(done, metrics)
        self._callbacks.record(done, {**to_row(metrics), **self._clock.lap(), **extra})


class _Saves:
    """Saves a step once, after its metrics are delivered. The time of a save does not count as
    training."""

    def __init__(self, clock: "_Clock", rows: _Rows, save: Hook, step: int) -> None:
        """`step` is saved already."""
        self._clock, self._rows, self._save, self._step = clock, rows, save, step

    def __call__(self, step: int, state: TrainState) -> None:
        self._rows.deliver()
        if step != self._step:
            with self._clock.paused():
                self._save.action(step, state)
            self._step = step


def _run_hooks(due: Sequence[Hook], done: int, state: TrainState, show: Show) -> Row:
    """The numbers that the hooks return, by name. Pictures go to `show`."""
    numbers: Row = {}
    for hook in due:
        for name, value in (hook.action(done, state) or {}).items():
            if isinstance(value, Path):
                show(done, name, value)
            else:
                numbers[name] = value
    return numbers


def _stop_saves(stop: Stop, save: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """A context around hooks, in which a stop saves the state without waiting for them: they may
    compile for minutes. With several processes a save is collective, so there it waits."""
    return contextlib.nullcontext() if jax.process_count() > 1 else stop.end_allowed(save)


class _Clock:
    """Measures the time of updates, without the time of hooks and saves."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0

    def lap(self) -> Row:
        """The times of the update that ends now, in ms: in all, and waiting for data."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        waited, self._waited = self._waited, 0.0
        return {"time/step_ms": seconds * 1000, "time/data_ms": waited * 1000}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

"""What every training run does around its loop: resume, record its start, track, save, stop."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from training import agreement, exits, metrics, parallel, peers, processes, runs
from training.batching import BatchPlan
from training.checkpoint import Checkpoints
from training.config import CheckpointConfig, TrackerConfig, TrainingConfig, parse_range
from training.copies import Copies
from training.logbook import Logbook
from training.loop import Hook, Row, fit
from training.parallel import Devices
from training.saving import make_save_hook
from training.signals import StopSignal
from training.skips import Skips
from training.spikes import NOT_FINITE, SPIKE
from training.state import TrainState
from training.step import PLAIN, Step
from training.tracing import Trace
from training.trackers import Pace, Tracker


@runtime_checkable
class RunConfig(Protocol):
    """The part of a run's configuration (a dataclass) that is read here."""

    @property
    def training(self) -> Pace: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def tracker(self) -> TrackerConfig: ...


@dataclass(frozen=True)
class Work:
    """What is trained: an update, its batches, and what happens between updates."""

    step: Step
    batch_at: Callable[[int], dict[str, np.ndarray]]
    hooks: Sequence[Hook] = ()
    between: Callable[[int, TrainState], TrainState] | None = None
    settings: TrainingConfig = PLAIN
    """What to do about updates that would do harm."""


Prepare = Callable[[TrainState], tuple[TrainState, list[str]]]


class RollbackError(Exception):
    """Raised in the loop at a spike with on_spike=rollback; `run_training` goes back."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(text)
        self.step = step


def run_training(
    folder: Path,
    config: RunConfig,
    config_yaml: str,
    devices: Devices,
    create: Callable[[], TrainState],
    about: dict[str, Any],
    begin: Callable[[Tracker], Work],
    changes: runs.Changes | None = None,
    costs: metrics.Costs = metrics.NO_COSTS,
    prepare: Prepare | None = None,
    plan: BatchPlan | None = None,
) -> TrainState:
    """The state after the last update, trained from the newest checkpoint in `folder`, or from
    `create()`. Raises exits.StoppedError, with the state saved, when it is told to stop before.

    `about` names what the run depends on besides its settings, such as the data's digest: the same
    on resume. `begin` makes the work, once there is some. `changes` are settings that differ from
    the last start's. `prepare` gives a fresh state other weights. `plan`: None for one batch size.
    """
    steps, plan = config.training.steps, plan or BatchPlan(config.training.batch_size)
    agreement.check(about)
    book = Logbook(folder, devices.is_first)
    alone = runs.sole_user(folder) if devices.is_first else contextlib.nullcontext()
    with alone, StopSignal() as stop, peers.watch_peers():
        stop.leave = lambda: _leave_early(folder)
        stop.by(config.training.stop_after)
        with _open_checkpoints(folder, config.checkpoint, devices, book) as checkpoints:
            state, lines = _first_state(checkpoints, devices, create, about, prepare)
            start = int(state.step)
            if start >= steps:
                print(f"{folder} is finished at step {start}; a larger --training.steps trains on")
                return state
            _note_start(folder, config_yaml, book, start, devices, changes, lines)
            skips = Skips(folder / "skips.json", devices.is_first)
            with Tracker(
                config.tracker,
                config.training,
                folder,
                start,
                dataclasses.asdict(config),  # type: ignore[call-overload]
                costs,
                is_writer=devices.is_first,
                examples_at=lambda n: skips.examples(n, plan.examples),
            ) as tracker:
                stop.leave = lambda: _leave(checkpoints, book, folder, tracker, steps)
                trainer = _Trainer(config, devices, about, checkpoints, tracker, book, stop)
                trace = Trace(config.training.profile, folder).around(start)
                with _noted(book, tracker), trace as traced:
                    state = trainer.train(begin(tracker), state, skips, traced)
                    checkpoints.finish()
            _note_end(book, folder, int(state.step), steps)
    if int(state.step) < steps:
        raise exits.StoppedError
    return state


@contextlib.contextmanager
def _open_checkpoints(
    folder: Path, config: CheckpointConfig, devices: Devices, book: Logbook
) -> Iterator[Checkpoints]:
    """The run's checkpoints. Where they lie elsewhere, the run's files are copied there with each
    save, and at the end."""
    tell = lambda event, text: book.tell(event, None, text)  # noqa: E731
    place = runs.place_of(folder, config.folder)
    copies = Copies(folder, config.folder if devices.is_first else "", tell)
    with copies, Checkpoints(place, config, tell, copies.copy) as checkpoints:
        yield checkpoints


def _first_state(
    checkpoints: Checkpoints,
    devices: Devices,
    create: Callable[[], TrainState],
    about: dict[str, Any],
    prepare: Prepare | None,
) -> tuple[TrainState, list[str]]:
    """The newest state that was saved, or a fresh one; and what there is to say about it."""
    found = checkpoints.resume(_shapes(create, devices), about)
    if found is not None:
        return found, []
    state = parallel.create(create, devices)
    return (state, []) if prepare is None else prepare(state)


@contextlib.contextmanager
def _noted(book: Logbook, tracker: Tracker) -> Iterator[None]:
    """What ends training early stands in the logbook."""
    try:
        yield
    except BaseException as error:
        is_wish = isinstance(error, KeyboardInterrupt)
        text = " ".join(str(error).split()) or type(error).__name__
        book.note("stop" if is_wish else "abort", tracker.step, text)
        raise


def _leave_early(folder: Path) -> None:
    print(f"{folder}: stopped before an update; the same command goes on from here", flush=True)
    peers.stop_all()


def _leave(
    checkpoints: Checkpoints, book: Logbook, folder: Path, tracker: Tracker, steps: int
) -> None:
    """Of a process that was told to stop while its main thread was busy."""
    checkpoints.settle()
    _note_end(book, folder, tracker.step, steps)
    peers.stop_all()


def _note_end(book: Logbook, folder: Path, done: int, steps: int) -> None:
    book.note("end" if done == steps else "stop", done, f"step {done} of {steps}")
    print(f"{folder}: step {done} of {steps}", end="")
    print("" if done == steps else "; the same command goes on from here", flush=True)


def _shapes(create: Callable[[], TrainState], devices: Devices) -> TrainState:
    """A state without its memory; only what may begin within a run has numbers."""
    like = parallel.shapes(create, devices)
    scale, guard = parallel.create(lambda: (create().loss_scale, create().guard), devices)
    return like._replace(loss_scale=scale, guard=guard)


def _note_start(
    folder: Path,
    config_yaml: str,
    book: Logbook,
    step: int,
    devices: Devices,
    changes: runs.Changes | None,
    lines: list[str],
) -> None:
    if step:
        print(f"{folder}: resumed from step {step}")
    if devices.is_first:
        runs.write_start(folder, config_yaml, devices.describe())
    book.note("resume" if step else "start", step, f"on {devices.describe()}")
    if changes:
        told = {name: list(values) for name, values in changes.items()}
        book.note("change", step, runs.describe(changes), changes=told)
    for line in lines:
        book.tell("init", step, line)


class _Trainer:
    """The loop between two checkpoints, and the way back after a spike."""

    def __init__(
        self,
        config: RunConfig,
        devices: Devices,
        about: dict[str, Any],
        checkpoints: Checkpoints,
        tracker: Tracker,
        book: Logbook,
        stop: StopSignal,
    ) -> None:
        self._config, self._devices, self._about = config, devices, about
        self._checkpoints, self._tracker, self._book, self._stop = checkpoints, tracker, book, stop
        self._settings = PLAIN
        self._skips: Skips
        self._like: TrainState
        self._row: Row = {}
        self._overflows = 0

    def train(self, work: Work, state: TrainState, skips: Skips, traced: Hook) -> TrainState:
        """Train to the last update, or until a stop."""
        self._settings, self._skips = work.settings, skips
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        for text in work.settings.skip_batches:
            self._leave_out(*parse_range(text), int(state.step), "by hand")
        print("compiling; the first update takes a while", flush=True)
        step = parallel.compile_step(work.step, self._devices)
        agree = processes.Agreement()
        while True:
            try:
                return fit(
                    step,
                    state,
                    lambda n: work.batch_at(skips.position(n)),
                    self._config.training.steps,
                    record=self._record,
                    hooks=[*work.hooks, traced],
                    save=make_save_hook(self._config.checkpoint, self._save),
                    between=work.between,
                    stop=self._stop,
                    is_stop=lambda _: agree(self._stop.received),
                    watch=self._watch,
                )
            except RollbackError as error:
                state = self._roll_back(error)

    def _record(self, step: int, row: Row) -> None:
        self._row = row
        self._tracker.record(step, row)

    def _save(self, step: int, state: TrainState) -> None:
        self._tracker.sync()
        evaluated = {k: v for k, v in self._row.items() if k.startswith("eval/")}
        self._checkpoints.save(state, self._about, evaluated)

    def _leave_out(
        self, start: int, stop: int, step: int, why: str, spike: int | None = None
    ) -> None:
        for one in self._skips.leave_out(start, stop, step, why, spike):
            text = f"batches {one.start}:{one.stop}, {why}"
            self._book.tell("left out", step, text, first=one.start, stop=one.stop)

    def _watch(self, step: int, row: Row) -> None:
        """Note what the guard did; raise when it did so too often, or when to go back."""
        self._check_scale(step, row)
        event = row.get("guard/event", 0)
        if not event:
            return
        batch = self._skips.position(step - 1)
        found = f"loss {row['train/loss']:.4g}, gradient norm {row['norm/grad']:.4g}"
        if math.isfinite(row["norm/grad"]) and not math.isfinite(row.get("norm/params", 0.0)):
            found += ", of weights that would be no number"
        facts = {
            "batch": batch,
            **{k: row[k] for k in ("train/loss", "norm/grad") if math.isfinite(row[k])},
        }
        if row["guard/pressure"] > self._settings.bad_update_budget:
            raise ValueError(
                f"more than training.bad_update_budget {self._settings.bad_update_budget} bad "
                f"updates of about 1,000, the last at step {step} (batch {batch}, {found}); none "
                "was made. Resume with a lower optim.learning_rate (--allow_changes "
                "optim.learning_rate), or leave batches out (--training.skip_batches)"
            )
        if event == NOT_FINITE:
            self._book.tell("skip", step, f"{found}: the update was not made", **facts)
        if event == SPIKE:
            if self._settings.on_spike == "rollback" and self._way_back(step) is not None:
                raise RollbackError(step, found)
            self._book.tell("spike", step, f"{found}: the update was not made", **facts)

    def _check_scale(self, step: int, row: Row) -> None:
        """Raises ValueError when float16 overflows again and again at the lowest loss scale."""
        if "loss_scale/skipped" not in row:
            return
        at_floor = row["loss_scale/scale"] <= self._settings.loss_scale_floor
        self._overflows = self._overflows + 1 if row["loss_scale/skipped"] and at_floor else 0
        if self._overflows >= self._settings.loss_scale_patience:
            raise ValueError(
                f"float16 overflowed in {self._overflows} updates running at the lowest loss scale "
                f"{self._settings.loss_scale_floor:g}, up to step {step}; train with compute_dtype "
                "bfloat16 or float32, or a lower learning rate"
            )

    def _way_back(self, step: int) -> int | None:
        """The newest checkpoint of the regular ones, which a replay has too, before a step."""
        self._checkpoints.settle()  # that of the save under way is none yet, or not everywhere
        every = self._config.checkpoint.every
        regular = [n for n in self._checkpoints.steps() if n < step and every and n % every == 0]
        return max(regular, default=None)

    def _roll_back(self, error: RollbackError) -> TrainState:
        """The newest regular checkpoint, with the batches around the spike left out."""
        budget, step = self._settings.bad_update_budget, error.step
        spikes = {one.why: one.spike for one in self._skips.ranges if one.spike is not None}
        lately = len([spike for spike in spikes.values() if spike > step - 1000])
        if lately >= budget:
            raise ValueError(
                f"a spike at step {step} ({error}) after {lately} rollbacks, as many as "
                f"training.bad_update_budget allows; resume with a lower optim.learning_rate "
                "(--allow_changes optim.learning_rate)"
            )
        every, batch = self._config.checkpoint.every, self._skips.position(step - 1)
        self._checkpoints.settle()
        found = self._checkpoints.resume(
            self._like, self._about, lambda n: n < step and n % every == 0
        )
        assert found is not None  # _way_back saw it
        state = found
        back, wide = int(state.step), self._settings.rollback_batches
        self._book.tell("rollback", step, f"{error}: back to step {back}", back=back, batch=batch)
        first = max(batch - wide, self._skips.position(back))
        why = f"spike {len(spikes) + 1}, at step {step}"
        self._leave_out(first, batch + 1 + wide, back, why, step)
        self._tracker.rewind(back)
        return state

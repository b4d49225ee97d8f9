"""One training run: processes, devices, recipe, folder, micro-batch, state, update, loop."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.settings import SettingsTree, to_tree
from training import exits
from training.config import RunConfig
from training.devices import agreement, peers, placing, processes
from training.devices.batching import BATCHES, BatchPlan, in_updates, make_plan, micro_batch_size
from training.devices.devices import find_devices
from training.devices.shortage import check_room, explain_out_of_memory
from training.first_state import first_state, plan_from
from training.hooks import distance_hooks
from training.loop import Callbacks, Hooks, RollbackError, fit
from training.recipe import BatchAt, Recipe, Run
from training.reports import range_test
from training.reports.metrics import Counts
from training.reports.run_log import RunLog
from training.reports.tracing import Trace
from training.reports.trackers import Tracker
from training.rollback import Rollback
from training.saved import runs
from training.saved.checkpoint import Checkpoints
from training.saved.copies import Copies
from training.saved.saving import check_keep_best, make_save_hook
from training.saver import Saver
from training.signals import StopSignal
from training.skips import Skips
from training.update import shared
from training.update.build import choose_micro_batch, make_parts, make_state
from training.update.shared import Programs
from training.update.state import TrainState
from training.watch import Watch

C = TypeVar("C", bound=RunConfig)
Load = Callable[[type[C], Path], C]
"""(class of the configuration, path of a config.yaml) → the configuration in that file."""


def train(
    config: C,
    make_recipe: Callable[[C], Recipe],
    load: Load[C],
    programs: Programs | None = None,
) -> TrainState:
    """Train until the last update, and return the state after it.

    A second call with the same configuration resumes the run. Runs of one process that get the
    same `programs` share their compiled programs.

    Raises:
        exits.StoppedError: a signal stopped the run before its last update; its state is saved.
        ValueError: settings, data, folder and devices do not fit together, the processes disagree,
            or the run diverges.
    """
    processes.join(config.parallel, peers.end_after_loss)
    with peers.watch_peers():
        agreement.check_start(config)
        session = _prepare(config, make_recipe, load, programs)
        state = session.train()
        session.recipe.finish(session.run, state)
    return state


def _prepare(
    config: C, make_recipe: Callable[[C], Recipe], load: Load[C], programs: Programs | None
) -> "_Session":
    """The run in its folder, after all checks that need no state."""

    def read(path: Path) -> SettingsTree:
        return to_tree(load(type(config), path))

    devices = find_devices(config.parallel)
    if config.training.micro_batch_size != "auto":
        micro_batch_size(config.training, devices)  # raises before a folder is made
    recipe = agreement.call_in_all(lambda: make_recipe(config))
    agreement.check(recipe.depends_on)
    epochs, config = config.training.epochs, in_updates(config, recipe.examples)
    config = range_test.without_guard(config)
    check_keep_best(config.checkpoint, recipe.splits)
    largest = recipe.batch_shapes(max(make_plan(config.training).sizes))
    create = make_state(config, recipe.init, recipe.players)
    check_room(placing.shapes(create, devices), largest, devices)
    folder, changes = processes.from_process_0(lambda: _open_folder(config, read))
    run = Run(Path(folder), devices, choose_micro_batch(config, recipe, devices), programs)
    return _Session(config, recipe, run, RunLog(config, recipe, run, epochs), read, changes)


def _open_folder(config: RunConfig, read: runs.Read) -> tuple[str, runs.Changes | None]:
    """The run's folder, and the settings that changed since its last start; None instead of them
    if the folder is new. Raises ValueError if the folder cannot be resumed."""
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    return str(folder), runs.open_folder(folder, to_tree(config), read)


@dataclass(frozen=True)
class _Session:
    """A run in its folder."""

    config: RunConfig
    recipe: Recipe
    run: Run
    log: RunLog
    read: runs.Read
    changes: runs.Changes | None
    """The settings that changed since the last start; None in a new folder."""

    def train(self) -> TrainState:
        """The state after the last update. Raises exits.StoppedError if a signal stops the run
        before it."""
        config, run, log = self.config, self.run, self.log
        alone = runs.sole_user(run.folder) if run.devices.is_first else contextlib.nullcontext()
        with alone, StopSignal() as stop:
            stop.leave = lambda: _leave_early(run.folder)
            stop.by(config.training.stop_after)
            with self._open_checkpoints() as checkpoints:
                start = first_state(config, self.recipe, run, self.read, checkpoints)
                done = int(start.state.step)
                if done >= config.training.steps:
                    log.already_finished(done)
                    return start.state
                log.start(done, self.changes, start.lines)
                skips = Skips(run.folder / "skips.json", run.devices.is_first, log.skipped)
                plan = plan_from(start, config, skips, self.changes)
                state = self._train_from(start.state, plan, skips, checkpoints, stop)
                log.end(int(state.step))
        if int(state.step) < config.training.steps:
            raise exits.StoppedError
        return state

    def _train_from(
        self,
        state: TrainState,
        plan: BatchPlan,
        skips: Skips,
        checkpoints: Checkpoints,
        stop: StopSignal,
    ) -> TrainState:
        """The state after the loop, with all that belongs around it: tracker, trace, watch, saver,
        hooks. The loop starts again after each rollback."""
        config, recipe, run, log = self.config, self.recipe, self.run, self.log
        done = int(state.step)
        with (
            self._open_tracker(done, plan, skips) as tracker,
            log.failure(lambda: tracker.step),
            explain_out_of_memory(run.micro_batch, lambda: tracker.step - done),
            Trace(config.training.profile, run.folder).around(done) as trace_hook,
        ):
            stop.leave = lambda: _leave(checkpoints, tracker, log)
            skips.skip_by_hand(config.training.skip_batches, done)
            fixed = runs.fixed_on_resume(recipe.depends_on, config.allow_changes)
            rollback = Rollback(config, fixed, checkpoints, tracker, log.book, skips, state)
            watch = Watch(config.training, rollback, skips, log.book)
            about = {**recipe.depends_on, BATCHES: [list(part) for part in plan.parts]}
            saver = Saver(about, checkpoints, tracker, log.book, watch, rollback, start=done)
            if run.devices.is_first:
                recipe.prepare(run)
            log.sizes(state.params, plan)
            batch_at = self._open_batches(plan, skips)
            hooks = Hooks(
                make_save_hook(config.checkpoint, saver.save),
                [*recipe.hooks(run), *distance_hooks(config, recipe, run.devices), trace_hook],
                recipe.between,
            )
            callbacks = Callbacks(
                tracker.record, tracker.image, watch.check, watch.is_over, saver.rescue
            )
            print("compiling; the first update takes a while", flush=True)
            parts = make_parts(config, recipe, run.devices, run.micro_batch, plan)
            step = shared.compile_step(run.programs, parts, config, run.devices)
            stop.agree = processes.Agreement()
            steps = config.training.steps
            while True:  # until the loop ends without a rollback
                try:
                    state = fit(step, state, batch_at, steps, callbacks, hooks, stop)
                    break
                except RollbackError as error:
                    state = rollback.go_back(error)
            saver.finish(int(state.step))
        return state

    def _open_batches(self, plan: BatchPlan, skips: Skips) -> BatchAt:
        """n → this process's rows of the batch of update n + 1, which jumps over skipped ones."""
        batch_at = self.recipe.open_batches(plan, self.run.devices)
        return lambda n: batch_at(skips.position(n))

    @contextlib.contextmanager
    def _open_checkpoints(self) -> Iterator[Checkpoints]:
        """The run's checkpoints. With checkpoint.folder, the run's other files are copied there
        with each save, and at the end."""
        config, folder, log = self.config.checkpoint, self.run.folder, self.log.event
        copied_to = config.folder if self.run.devices.is_first else ""
        with (
            Copies(folder, copied_to, log) as copies,
            Checkpoints(runs.place_of(folder, config.folder), config, log, copies.copy) as opened,
        ):
            yield opened

    def _open_tracker(self, done: int, plan: BatchPlan, skips: Skips) -> Tracker:
        """The tracker of a run that has finished `done` updates."""
        config, devices = self.config, self.run.devices
        counts = Counts(lambda n: skips.examples(n, plan.examples), self.recipe.costs(devices))
        return Tracker(
            config.tracker,
            config.training,
            self.run.folder,
            done,
            to_tree(config),
            counts,
            is_writer=devices.is_first,
        )


def _leave_early(folder: Path) -> None:
    """End the process before its first update."""
    print(f"{folder}: stopped before an update; the same command resumes from here", flush=True)
    peers.stop_all()


def _leave(checkpoints: Checkpoints, tracker: Tracker, log: RunLog) -> None:
    """End the process while its main thread is busy, such as with a compilation."""
    checkpoints.settle()
    log.end(tracker.step)
    peers.stop_all()

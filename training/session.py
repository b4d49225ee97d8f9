"""One training run from its start to its end: devices, folder, micro-batch, state, update, loop."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from optim.schedules import describe_course
from settings import to_tree, to_yaml
from training import exits, shared
from training.config import RunConfig, TrainingConfig
from training.devices import agreement, parallel, peers, processes
from training.devices.batching import BATCHES, BatchPlan, in_updates, make_plan, micro_batch_size
from training.devices.devices import find_devices
from training.devices.shortage import check_room, telling
from training.hooks import measure_distance
from training.loop import Hook, RollbackError, Work, fit
from training.programs import Programs
from training.recipe import Recipe, Run
from training.reports import metrics, range_test
from training.reports.logbook import Logbook
from training.reports.metrics import Counts
from training.reports.tracing import Trace
from training.reports.trackers import Tracker
from training.saved import runs, starts
from training.saved.branching import branch
from training.saved.checkpoint import Checkpoints
from training.saved.copies import Copies
from training.saved.saving import check_keep_best, make_save_hook
from training.signals import StopSignal
from training.skips import Skips
from training.spans import parse_ramp
from training.supervision import Supervisor
from training.update.build import (
    choose_micro_batch,
    describe_size,
    make_state,
    make_update,
    start_from,
)
from training.update.state import TrainState

C = TypeVar("C", bound=RunConfig)
Load = Callable[[type[C], Path], C]
"""(class of the configuration, config.yaml) → the configuration."""


def train(
    config: C,
    make_recipe: Callable[[C], Recipe],
    load: Load[C],
    programs: Programs | None = None,
) -> TrainState:
    """The state after the last update. The same configuration again resumes. `programs`: shared
    with other runs of this process.

    Raises:
        exits.StoppedError: the run was stopped before that, and its state is saved.
        ValueError: settings, data, folder and devices do not go together, processes do not agree,
            or the run diverges.
    """
    processes.join(config.parallel, peers.lose_first)
    agreement.check_start(config)
    with peers.watch_peers():
        return _train(config, make_recipe, load, programs)


def _train(
    config: C, make_recipe: Callable[[C], Recipe], load: Load[C], programs: Programs | None
) -> TrainState:
    """As `train`, in processes that have met and watch each other."""
    devices = find_devices(config.parallel)
    if config.training.micro_batch_size != "auto":
        micro_batch_size(config.training, devices)  # refused before a folder is made
    recipe = agreement.together(lambda: make_recipe(config))
    agreement.check(recipe.depends_on)
    epochs, config = config.training.epochs, in_updates(config, recipe.examples)
    config = range_test.unbroken(config)
    check_keep_best(config.checkpoint, recipe.splits)
    largest = recipe.batch_shapes(max(make_plan(config.training).sizes))
    create = make_state(config, recipe.init, recipe.players)
    check_room(parallel.shapes(create, devices), largest, devices)
    read = lambda path: to_tree(load(type(config), path))  # noqa: E731
    folder, changes = processes.from_first(lambda: _open_folder(config, read))
    run = Run(Path(folder), devices, choose_micro_batch(config, recipe, devices), programs)
    state = _Session(config, recipe, run, read, epochs).train(changes)
    recipe.finish(run, state)
    return state


def _open_folder(config: RunConfig, read: runs.Read) -> tuple[str, runs.Changes | None]:
    """The run's folder, and the settings that differ from its earlier start; None for a new folder.
    Raises ValueError if the folder cannot be resumed."""
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    return str(folder), runs.open_folder(folder, to_tree(config), read)


class _Session:
    """A run that has its folder: opens what surrounds the loop, and closes it in reverse."""

    def __init__(
        self, config: RunConfig, recipe: Recipe, run: Run, read: runs.Read, epochs: float = 0.0
    ) -> None:
        """`epochs`: the setting that the configuration's steps were counted from, if any."""
        self._config, self._recipe, self._run, self._read = config, recipe, run, read
        self._epochs = epochs
        self._book = Logbook(run.folder, run.devices.is_first)
        self._create = make_state(config, recipe.init, recipe.players)
        self._plan = make_plan(config.training)
        self._before: list[list[int]] = []  # parts of the plan that the state was trained by

    def train(self, changes: runs.Changes | None) -> TrainState:
        """The state after the last update. Raises exits.StoppedError after a stop before it."""
        folder, steps, is_first = (
            *(self._run.folder, self._config.training.steps, self._run.devices.is_first),
        )
        alone = runs.sole_user(folder) if is_first else contextlib.nullcontext()
        with alone, StopSignal() as stop:
            stop.leave = lambda: _leave_early(folder)
            stop.by(self._config.training.stop_after)
            with self._open_checkpoints() as checkpoints:
                state, lines = self._first_state(checkpoints)
                start = int(state.step)
                if start >= steps:
                    more = f"--training.{'epochs' if self._epochs else 'steps'}"
                    print(f"{folder} is finished at step {start}; a larger {more} trains on")
                    return state
                self._note_start(start, changes, lines)
                skips = Skips(folder / "skips.json", is_first)
                self._plan = self._make_plan(start, skips, changes)
                with self._open_tracker(start, skips) as tracker:
                    stop.leave = lambda: self._leave(checkpoints, tracker)
                    trace = Trace(self._config.training.profile, folder).around(start)
                    told = telling(self._run.micro_batch, lambda: tracker.step - start)
                    with self._noted(tracker), told, trace as traced:
                        batches = [list(part) for part in self._plan.parts]
                        about = {**self._recipe.depends_on, BATCHES: batches}
                        supervisor = Supervisor(
                            *(self._config, about, checkpoints, tracker),
                            *(self._book, skips, state),
                        )
                        state = self._loop(state, supervisor, stop, traced)
                        supervisor.finish(int(state.step))
                self._note_end(int(state.step))
        if int(state.step) < steps:
            raise exits.StoppedError
        return state

    def _first_state(self, checkpoints: Checkpoints) -> tuple[TrainState, list[str]]:
        """The first state of the run, and lines about its origin for the logbook."""
        return (
            self._resume(checkpoints)
            or self._branch_from(self._config.branch_from)
            or self._init_from(self._config.init_from)
            or self._fresh()
        )

    def _resume(self, checkpoints: Checkpoints) -> tuple[TrainState, list[str]] | None:
        """The newest state of this run."""
        found = checkpoints.resume(
            self._like, runs.held_to(self._recipe.depends_on, self._config.allow_changes)
        )
        if found is None:
            return None
        self._before = checkpoints.about(int(found.step)).get(BATCHES, [])
        return found, []

    def _branch_from(self, source: str) -> tuple[TrainState, list[str]] | None:
        """A checkpoint of another run, with its optimizer and its place in the data."""
        if not source:
            return None
        settings = to_tree(self._config)
        about = runs.held_to(self._recipe.depends_on, self._config.allow_changes)
        found, lines, self._before = branch(
            source, self._run, settings, self._read, about, self._like()
        )
        return found, lines

    def _init_from(self, source: str) -> tuple[TrainState, list[str]] | None:
        """A fresh state with other weights."""
        begin = self._recipe.begin
        if not source and begin is None:
            return None
        state, _ = self._fresh()
        if source or begin is None:
            params, lines = self._recipe.start_from(source, state.params)
        else:
            params, lines = begin(state.params)
        params = parallel.place(params, self._run.devices)
        return start_from(self._config, state, params), lines

    def _fresh(self) -> tuple[TrainState, list[str]]:
        """A state before the first update."""
        return shared.create(self._run.programs, self._create, self._config, self._run.devices), []

    def _make_plan(self, start: int, skips: Skips, changes: runs.Changes | None) -> BatchPlan:
        """The batches of the whole run: unchanged until `start`, from there on as configured.

        Raises:
            ValueError: batches of several sizes were skipped, and the schedule counts examples.
        """
        training, optim = self._config.training, self._config.optim
        plan = make_plan(training)
        before = self._before or _old_plan(training, changes or {}).parts
        plan = plan.after(before, skips.position(start)) if start else plan
        if len(plan.sizes) > 1 and optim.counts_examples and skips.ranges:
            raise ValueError(
                "optim counts examples, batches were skipped, and their sizes changed; use "
                "--optim.schedule_unit=updates with lengths in updates"
            )
        return plan

    def _like(self) -> TrainState:
        """Shapes and shardings of a state. Only parts that may begin within a run hold values."""
        devices, create = self._run.devices, self._create
        names = ("loss_scale", "guard", "players")
        begun = parallel.create(lambda: {n: getattr(create(), n) for n in names}, devices)
        return parallel.shapes(create, devices)._replace(**begun)

    def _loop(
        self, state: TrainState, supervisor: Supervisor, stop: StopSignal, traced: Hook
    ) -> TrainState:
        """The loop, entered again after each rollback; `traced` is the profiler's hook."""
        config, recipe, run = self._config, self._recipe, self._run
        if run.devices.is_first:
            recipe.prepare(run)
        size = describe_size(config, state.params)
        print(f"{run.folder}: {size} on {run.devices.describe()}, {recipe.summary}")
        if config.optim.counts_examples:
            steps = config.training.steps
            print(describe_course(config.optim, steps, self._plan.examples), flush=True)
        batch_at = recipe.open_batches(self._plan, run.devices)
        hooks = [*recipe.hooks(run), *self._distance(), traced]
        updates = partial(make_update, config, recipe, run.devices, run.micro_batch, self._plan)
        print("compiling; the first update takes a while", flush=True)
        step = shared.compile_step(run.programs, updates, self._plan, config, run.devices)
        stop.agree = processes.Agreement()
        while True:
            save = make_save_hook(config.checkpoint, supervisor.save)
            try:
                return fit(
                    step,
                    state,
                    lambda n: batch_at(supervisor.skips.position(n)),
                    config.training.steps,
                    supervisor.outlets(),
                    Work(save, supervisor.rescue, hooks, recipe.between),
                    stop,
                )
            except RollbackError as error:
                state = supervisor.roll_back(error)

    def _distance(self) -> list[Hook]:
        """A hook that logs how far the weights are from the run's first, unless it is a branch."""
        if (config := self._config).training.observe == "off" or config.branch_from:
            return []

        def begin() -> Any:
            start = parallel.create(lambda: self._create().params, self._run.devices)
            if source := config.init_from:
                start = self._recipe.start_from(source, start)[0]
            return parallel.place(start, self._run.devices)

        return [Hook(config.training.observe_every, measure_distance(begin))]

    @contextlib.contextmanager
    def _open_checkpoints(self) -> Iterator[Checkpoints]:
        """The run's checkpoints. With checkpoint.folder, the run's other files are copied there
        with each save, and at the end."""
        config, folder = self._config.checkpoint, self._run.folder
        tell = lambda event, text: self._book.tell(event, None, text)  # noqa: E731
        place = runs.place_of(folder, config.folder)
        copies = Copies(folder, config.folder if self._run.devices.is_first else "", tell)
        with copies, Checkpoints(place, config, tell, copies.copy) as checkpoints:
            yield checkpoints

    def _open_tracker(self, start: int, skips: Skips) -> Tracker:
        config, devices = self._config, self._run.devices
        examples = self._plan.examples
        return Tracker(
            config.tracker,
            config.training,
            self._run.folder,
            start,
            to_tree(config),
            Counts(lambda n: skips.examples(n, examples), self._recipe.costs(devices)),
            is_writer=devices.is_first,
        )

    @contextlib.contextmanager
    def _noted(self, tracker: Tracker) -> Iterator[None]:
        """Log in the logbook what ends training early."""
        try:
            yield
        except BaseException as error:
            is_wish = isinstance(error, KeyboardInterrupt)
            text = " ".join(str(error).split()) or type(error).__name__
            self._book.note("stop" if is_wish else "abort", tracker.step, text)
            raise

    def _note_start(self, step: int, changes: runs.Changes | None, lines: list[str]) -> None:
        """Log the start; `lines` are about a fresh state."""
        folder, devices = self._run.folder, self._run.devices
        if step:
            print(f"{folder}: resumed from step {step}")
        if devices.is_first:
            starts.write_start(folder, to_yaml(self._config), devices.describe())
        self._book.note("resume" if step else "start", step, f"on {devices.describe()}")
        if self._config.note:
            self._book.note("question", step, self._config.note)
        if self._epochs:
            self._book.tell("length", step, self._describe_length())
        if changes:
            told = {name: list(values) for name, values in changes.items()}
            self._book.note("change", step, runs.describe(changes), changes=told)
        for line in lines:
            self._book.tell("init", step, line)

    def _describe_length(self) -> str:
        steps, examples = self._config.training.steps, self._recipe.examples
        return f"{self._epochs:g} passes over {examples:,} examples are {steps:,} updates"

    def _note_end(self, done: int) -> None:
        folder, steps = self._run.folder, self._config.training.steps
        self._book.note("end" if done == steps else "stop", done, f"step {done} of {steps}")
        print(f"{folder}: step {done} of {steps}", end="")
        print("" if done == steps else "; the same command goes on from here", flush=True)
        if self._config.training.lr_range_test and done == steps and self._run.devices.is_first:
            print(range_test.report(folder, metrics.read(folder / "metrics.jsonl")), flush=True)

    def _leave(self, checkpoints: Checkpoints, tracker: Tracker) -> None:
        """End a process that is to stop while its main thread is busy, as in a
        compilation."""
        checkpoints.settle()
        self._note_end(tracker.step)
        peers.stop_all()


def _old_plan(training: TrainingConfig, changes: runs.Changes) -> BatchPlan:
    """The plan of batches before these changes, for a checkpoint that holds no plan."""
    names = ("batch_size", "batch_ramp")
    old = {name: changes.get(f"training.{name}", (getattr(training, name),))[0] for name in names}
    return BatchPlan(old["batch_size"], tuple(map(parse_ramp, old["batch_ramp"])))


def _leave_early(folder: Path) -> None:
    """End a process that is to stop before its first update."""
    print(f"{folder}: stopped before an update; the same command goes on from here", flush=True)
    peers.stop_all()

"""One training run: processes, devices, recipe, folder, micro-batch, state, update, loop."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import PyTree

from common.settings import to_tree
from optim.schedules import describe_course
from training import exits
from training.config import RunConfig, TrainingConfig
from training.devices import agreement, parallel, peers, processes
from training.devices.batching import BATCHES, BatchPlan, in_updates, make_plan, micro_batch_size
from training.devices.devices import find_devices
from training.devices.shortage import check_room, explain_out_of_memory
from training.hooks import measure_distance
from training.loop import Hook, Hooks, RollbackError, fit
from training.recipe import Recipe, Run
from training.reports import range_test
from training.reports.metrics import Counts
from training.reports.run_log import RunLog
from training.reports.tracing import Trace
from training.reports.trackers import Tracker
from training.saved import runs
from training.saved.branching import branch
from training.saved.checkpoint import Checkpoints
from training.saved.copies import Copies
from training.saved.saving import check_keep_best, make_save_hook
from training.signals import StopSignal
from training.skips import Skips
from training.spans import parse_ramp
from training.supervision import Supervisor
from training.update import shared
from training.update.build import (
    choose_micro_batch,
    describe_size,
    make_state,
    make_update,
    with_params,
)
from training.update.programs import Programs
from training.update.state import TrainState

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
        return _prepare_and_train(config, make_recipe, load, programs)


def _prepare_and_train(
    config: C, make_recipe: Callable[[C], Recipe], load: Load[C], programs: Programs | None
) -> TrainState:
    """`train`, after the processes have joined: check, make the folder, run, and finish."""

    def read(path: Path) -> dict[str, Any]:
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
    check_room(parallel.shapes(create, devices), largest, devices)
    folder, changes = processes.from_process_0(lambda: _open_folder(config, read))
    run = Run(Path(folder), devices, choose_micro_batch(config, recipe, devices), programs)
    state = _Session(config, recipe, run, read, epochs).train(changes)
    recipe.finish(run, state)
    return state


def _open_folder(config: RunConfig, read: runs.Read) -> tuple[str, runs.Changes | None]:
    """The run's folder, and the settings that changed since its last start; None instead of them
    if the folder is new. Raises ValueError if the folder cannot be resumed."""
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    return str(folder), runs.open_folder(folder, to_tree(config), read)


class _Session:
    """A run in its folder. `train` opens checkpoints, tracker and supervisor around the loop, and
    closes them in reverse order."""

    def __init__(
        self, config: RunConfig, recipe: Recipe, run: Run, read: runs.Read, epochs: float = 0.0
    ) -> None:
        """`epochs`: training.epochs, if training.steps was computed from it; 0 otherwise."""
        self._config, self._recipe, self._run, self._read = config, recipe, run, read
        self._log = RunLog(config, recipe, run, epochs)
        self._create = make_state(config, recipe.init, recipe.players)
        self._plan = make_plan(config.training)
        self._past_plan: list[list[int]] = []  # batch sizes of the updates that a checkpoint holds

    def train(self, changes: runs.Changes | None) -> TrainState:
        """The state after the last update. Raises exits.StoppedError if a signal stops the run
        before it."""
        folder, is_first = self._run.folder, self._run.devices.is_first
        steps = self._config.training.steps
        alone = runs.sole_user(folder) if is_first else contextlib.nullcontext()
        with alone, StopSignal() as stop:
            stop.leave = lambda: _leave_early(folder)
            stop.by(self._config.training.stop_after)
            with self._open_checkpoints() as checkpoints:
                state, lines = self._first_state(checkpoints)
                start = int(state.step)
                if start >= steps:
                    self._log.already_finished(start)
                    return state
                self._log.start(start, changes, lines)
                skips = Skips(folder / "skips.json", is_first)
                self._plan = self._whole_plan(start, skips, changes)
                state = self._train_with_reports(state, skips, checkpoints, stop)
                self._log.end(int(state.step))
        if int(state.step) < steps:
            raise exits.StoppedError
        return state

    def _train_with_reports(
        self, state: TrainState, skips: Skips, checkpoints: Checkpoints, stop: StopSignal
    ) -> TrainState:
        """The state after the loop, with a tracker, a profiler and a supervisor around it."""
        start = int(state.step)
        with self._open_tracker(start, skips) as tracker:
            stop.leave = lambda: self._leave(checkpoints, tracker)
            trace = Trace(self._config.training.profile, self._run.folder).around(start)
            explained = explain_out_of_memory(self._run.micro_batch, lambda: tracker.step - start)
            with self._log.failure(lambda: tracker.step), explained, trace as traced:
                batches = [list(part) for part in self._plan.parts]
                supervisor = Supervisor(
                    config=self._config,
                    about={**self._recipe.depends_on, BATCHES: batches},
                    checkpoints=checkpoints,
                    tracker=tracker,
                    book=self._log.book,
                    skips=skips,
                    state=state,
                )
                state = self._loop(state, supervisor, stop, traced)
                supervisor.finish(int(state.step))
        return state

    def _first_state(self, checkpoints: Checkpoints) -> tuple[TrainState, list[str]]:
        """The state that the loop starts from, and lines for the logbook about its origin."""
        return (
            self._resume(checkpoints)
            or self._branch_from(self._config.branch_from)
            or self._new_state()
        )

    def _resume(self, checkpoints: Checkpoints) -> tuple[TrainState, list[str]] | None:
        """The state of this run's newest checkpoint; None without a checkpoint."""
        found = checkpoints.resume(
            self._shapes, runs.fixed_on_resume(self._recipe.depends_on, self._config.allow_changes)
        )
        if found is None:
            return None
        self._past_plan = checkpoints.about(int(found.step)).get(BATCHES, [])
        return found, []

    def _branch_from(self, source: str) -> tuple[TrainState, list[str]] | None:
        """A checkpoint of another run, with its optimizer state and its position in the data."""
        if not source:
            return None
        settings = to_tree(self._config)
        about = runs.fixed_on_resume(self._recipe.depends_on, self._config.allow_changes)
        found, lines, self._past_plan = branch(
            source, self._run, settings, self._read, about, self._shapes()
        )
        return found, lines

    def _new_state(self) -> tuple[TrainState, list[str]]:
        """The state before the first update."""
        config, devices = self._config, self._run.devices
        state = shared.create(self._run.programs, self._create, config, devices)
        params, lines = self._first_params(state.params)
        if params is state.params:
            return state, lines
        return with_params(config, state, parallel.place(params, devices)), lines

    def _first_params(self, random: PyTree) -> tuple[PyTree, list[str]]:
        """(the parameters before the first update, lines about their origin): the weights of
        --init_from, or what the recipe makes of random ones."""
        if source := self._config.init_from:
            return self._recipe.start_from(source, random)
        return self._recipe.start_fresh(random)

    def _whole_plan(self, start: int, skips: Skips, changes: runs.Changes | None) -> BatchPlan:
        """The sizes of all batches: as they were up to update `start`, as configured after it.

        Raises:
            ValueError: batches were skipped, the batch size changed, and the schedule counts
                examples.
        """
        training, optim = self._config.training, self._config.optim
        plan = make_plan(training)
        past = self._past_plan or _old_plan(training, changes or {}).parts
        plan = plan.after(past, skips.position(start)) if start else plan
        if len(plan.sizes) > 1 and optim.counts_examples and skips.ranges:
            raise ValueError(
                "optim counts examples, batches were skipped, and their sizes changed; use "
                "--optim.schedule_unit=updates with lengths in updates"
            )
        return plan

    def _shapes(self) -> TrainState:
        """Shapes and shardings of a state. Parts that a checkpoint may lack hold their initial
        values."""
        devices, create = self._run.devices, self._create
        names = ("loss_scale", "guard", "players")
        initial = parallel.create(lambda: {n: getattr(create(), n) for n in names}, devices)
        return parallel.shapes(create, devices)._replace(**initial)

    def _loop(
        self, state: TrainState, supervisor: Supervisor, stop: StopSignal, traced: Hook
    ) -> TrainState:
        """The state after the loop, which starts again after each rollback. `traced` is the
        profiler's hook."""
        config, recipe, run = self._config, self._recipe, self._run
        if run.devices.is_first:
            recipe.prepare(run)
        self._print_sizes(state)
        batch_at = recipe.open_batches(self._plan, run.devices)
        hooks = [*recipe.hooks(run), *self._distance(), traced]
        updates = partial(make_update, config, recipe, run.devices, run.micro_batch, self._plan)
        print("compiling; the first update takes a while", flush=True)
        step = shared.compile_step(run.programs, updates, self._plan, config, run.devices)
        stop.agree = processes.Agreement()
        while True:  # until the loop ends without a rollback
            save = make_save_hook(config.checkpoint, supervisor.save)
            try:
                return fit(
                    step,
                    state,
                    lambda n: batch_at(supervisor.skips.position(n)),
                    config.training.steps,
                    supervisor.callbacks(),
                    Hooks(save, supervisor.rescue, hooks, recipe.between),
                    stop,
                )
            except RollbackError as error:
                state = supervisor.roll_back(error)

    def _print_sizes(self, state: TrainState) -> None:
        """Print the size of the model, the devices and the data, and the course of the learning
        rate if it is given in examples."""
        config, run = self._config, self._run
        size = describe_size(config, state.params)
        print(f"{run.folder}: {size} on {run.devices.describe()}, {self._recipe.summary}")
        if config.optim.counts_examples:
            steps = config.training.steps
            print(describe_course(config.optim, steps, self._plan.examples), flush=True)

    def _distance(self) -> list[Hook]:
        """A hook that logs the distance of the weights from the run's initial ones. A branch has
        none, because its initial weights are another run's."""
        if (config := self._config).training.observe == "off" or config.branch_from:
            return []

        def first_params() -> PyTree:
            start = parallel.create(lambda: self._create().params, self._run.devices)
            if source := config.init_from:
                start = self._recipe.start_from(source, start)[0]
            return parallel.place(start, self._run.devices)

        return [Hook(config.training.observe_every, measure_distance(first_params))]

    @contextlib.contextmanager
    def _open_checkpoints(self) -> Iterator[Checkpoints]:
        """The run's checkpoints. With checkpoint.folder, the run's other files are copied there
        with each save, and at the end."""
        config, folder = self._config.checkpoint, self._run.folder
        place = runs.place_of(folder, config.folder)
        copied_to = config.folder if self._run.devices.is_first else ""
        copies = Copies(folder, copied_to, self._log.event)
        with copies, Checkpoints(place, config, self._log.event, copies.copy) as checkpoints:
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

    def _leave(self, checkpoints: Checkpoints, tracker: Tracker) -> None:
        """End the process while its main thread is busy, such as with a compilation."""
        checkpoints.settle()
        self._log.end(tracker.step)
        peers.stop_all()


def _old_plan(training: TrainingConfig, changes: runs.Changes) -> BatchPlan:
    """The plan before these changes of settings, for a checkpoint that does not hold its plan."""
    names = ("batch_size", "batch_ramp")
    old = {name: changes.get(f"training.{name}", (getattr(training, name),))[0] for name in names}
    return BatchPlan(old["batch_size"], tuple(map(parse_ramp, old["batch_ramp"])))


def _leave_early(folder: Path) -> None:
    """End the process before its first update."""
    print(f"{folder}: stopped before an update; the same command resumes from here", flush=True)
    peers.stop_all()

"""The state that a run starts from: resumed, branched off another run, or new."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from common.settings import to_tree
from training.config import RunConfig, TrainingConfig
from training.devices import placing
from training.devices.batching import BATCHES, BatchPlan, make_plan
from training.devices.devices import Devices
from training.recipe import Recipe, Run
from training.saved import runs
from training.saved.branching import branch
from training.saved.checkpoint import Checkpoints
from training.skips import Skips
from training.spans import parse_ramp
from training.update import shared
from training.update.build import make_state, with_params
from training.update.state import TrainState


class Start(NamedTuple):
    """The state that a run starts from, and its origin."""

    state: TrainState
    lines: Sequence[str] = ()
    """Lines for the logbook about the origin of the state."""
    past: Sequence[Sequence[int]] = ()
    """The batch sizes of the updates before the state, as `BatchPlan.parts`; empty if it is new, or
    if its checkpoint does not hold them."""


def first_state(
    config: RunConfig, recipe: Recipe, run: Run, read: runs.Read, checkpoints: Checkpoints
) -> Start:
    """The newest checkpoint of this run; else the checkpoint of --branch_from; else a new state."""
    create = make_state(config, recipe.init, recipe.players)
    shapes = partial(_shapes, create, run.devices)
    fixed = runs.fixed_on_resume(recipe.depends_on, config.allow_changes)
    resumed = checkpoints.resume(shapes, fixed)
    if resumed is not None:
        return Start(resumed, past=checkpoints.about(int(resumed.step)).get(BATCHES, []))
    if source := config.branch_from:
        return Start(*branch(source, run, to_tree(config), read, fixed, shapes()))
    return _new_state(config, recipe, run, create)


def _shapes(create: Callable[[], TrainState], devices: Devices) -> TrainState:
    """Shapes and shardings of a state. Parts that a checkpoint may lack hold their initial
    values."""
    names = ("loss_scale", "guard", "players")
    initial = placing.create(lambda: {n: getattr(create(), n) for n in names}, devices)
    return placing.shapes(create, devices)._replace(**initial)


def _new_state(
    config: RunConfig, recipe: Recipe, run: Run, create: Callable[..., TrainState]
) -> Start:
    """The state before the first update: with the weights of --init_from, or with those that the
    recipe makes of random ones."""
    state = shared.create(run.programs, create, config, run.devices)
    params, lines = recipe.start(config.init_from, state.params)
    if params is not state.params:
        state = with_params(config, state, placing.place(params, run.devices))
    return Start(state, lines)


def plan_from(
    start: Start, config: RunConfig, skips: Skips, changes: runs.Changes | None
) -> BatchPlan:
    """The sizes of all batches: as they were up to the start, as configured after it. `changes` are
    the settings that changed since the last start.

    Raises:
        ValueError: batches were skipped, the batch size changed, and the schedule counts examples.
    """
    plan, done = make_plan(config.training), int(start.state.step)
    if done:
        past = start.past or _old_plan(config.training, changes or {}).parts
        plan = plan.after(past, skips.position(done))
    if len(plan.sizes) > 1 and config.optim.counts_examples and skips.ranges:
        raise ValueError(
            "optim counts examples, batches were skipped, and their sizes changed; use "
            "--optim.schedule_unit=updates with lengths in updates"
        )
    return plan


def _old_plan(training: TrainingConfig, changes: runs.Changes) -> BatchPlan:
    """The plan before these changes of settings, for a checkpoint that does not hold its plan."""
    names = ("batch_size", "batch_ramp")
    old = {name: changes.get(f"training.{name}", (getattr(training, name),))[0] for name in names}
    return BatchPlan(old["batch_size"], tuple(map(parse_ramp, old["batch_ramp"])))

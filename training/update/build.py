"""The update and the first state of a configuration: a loss with its optimizer, schedule, averages
and devices."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import jax
import optax
from jaxtyping import Array, PyTree, UInt32

from optim.averaging import init_ema, make_average
from optim.freezing import make_is_trained, trained_part
from optim.optimizers import make_optimizer
from optim.schedules import Clock, make_schedule, make_warm_up
from training.config import RunConfig
from training.devices import fitting, in_step
from training.devices.batching import BatchPlan, make_plan, micro_batch_size
from training.devices.devices import Devices
from training.recipe import Objective, Recipe
from training.reports.range_test import rising
from training.update.observables import Observable, tensor_norms
from training.update.observe_levels import make_observables
from training.update.players import Player, Players
from training.update.precision import to_float32
from training.update.spikes import init_guard
from training.update.state import TrainState
from training.update.step import Step, StepParts, train_step


def make_update(
    config: RunConfig, objective: Objective, devices: Devices, size: int | None = None
) -> Step:
    """The update as a pure function, for `parallel.compile_step`; `size` as for `make_parts`."""
    return partial(train_step, make_parts(config, objective, devices, size))


def make_parts(
    config: RunConfig,
    objective: Objective,
    devices: Devices,
    size: int | None = None,
    plan: BatchPlan | None = None,
) -> StepParts:
    """The parts of an update, for `train_step`. `size` is the micro-batch of a device, `plan` the
    sizes of the batches; None = as configured."""
    training, examples_at = config.training, (plan or make_plan(config.training)).examples
    size = size or micro_batch_size(training, devices)
    shares = devices.num_shares if devices.mode == "pmap" else 1
    count = max(training.batch_size // (size * devices.num_shares), 1) * shares
    by_level = make_observables(
        training.observe, training.observe_every, count, objective.model_statistics
    )
    return StepParts(
        loss=in_step.with_gathered_params(objective.loss, devices),
        optimizer=make_optimizer(config.optim, in_step.make_spread(devices), objective.rates),
        schedule=_schedule(config, examples_at),
        micro_batches=in_step.micro_batch_counter(devices, size),
        mean_over_devices=in_step.make_mean(devices),
        settings=training,
        is_warm=make_warm_up(config.optim, examples_at),
        update_ema=make_average(config.optim),
        is_trained=make_is_trained(config.optim.freeze, config.optim.trained),
        observables=[
            Observable(training.norms_every, tensor_norms),
            *by_level,
            *objective.observables,
        ],
        players={n: _gathered(player, devices) for n, player in objective.players.items()},
        shares=shares,
    )


def _schedule(config: RunConfig, examples_at: Clock) -> optax.Schedule:
    """A function from finished updates to the learning rate of the next update."""
    if config.training.lr_range_test:
        return rising(config.optim.learning_rate, config.training.steps)
    return make_schedule(config.optim, config.training.steps, examples_at)


def _gathered(player: Player, devices: Devices) -> Player:
    return replace(player, loss=in_step.with_gathered_params(player.loss, devices))


def make_state(
    config: RunConfig, init: Callable[[Array], PyTree], players: Players = MappingProxyType({})
) -> Callable[..., TrainState]:
    """A function (seed = the configuration's) → the state before the first update."""
    create = partial(
        TrainState.create,
        init,
        make_optimizer(config.optim),
        compute_dtype=config.training.compute_dtype,
        param_dtype=config.training.param_dtype,
        init_ema=init_ema if config.optim.averages else None,
        players=players,
    )

    def make(seed: int | UInt32[Array, ""] = config.seed) -> TrainState:
        return create(seed)._replace(guard=init_guard(config.training))

    return make


def with_params(config: RunConfig, state: TrainState, params: PyTree) -> TrainState:
    """The fresh state, with these parameters in place of the random ones. Averages and optimizer
    state start from them, too."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    state = state._replace(opt_state=None, params=params)  # frees the memory of the old arrays

    def make(params: PyTree) -> PyTree:
        return make_optimizer(config.optim).init(to_float32(params))

    return state._replace(
        opt_state=jax.jit(make, out_shardings=places)(params),
        ema=None if state.ema is None else jax.jit(init_ema)(params),
    )


def choose_micro_batch(config: RunConfig, recipe: Recipe, devices: Devices) -> int:
    """The micro-batch of a device: the configured one, or with `auto` the largest that fits."""
    if config.training.micro_batch_size != "auto":
        return micro_batch_size(config.training, devices)
    return fitting.find_micro_batch(
        make_plan(config.training),
        devices,
        lambda size: make_update(config, recipe, devices, size),
        make_state(config, recipe.init, recipe.players),
        recipe.batch_shapes,
    )


def describe_size(config: RunConfig, params: PyTree) -> str:
    """A text such as "3,456,000 parameters, of which 120,000 are trained"."""
    part = trained_part(params, make_is_trained(config.optim.freeze, config.optim.trained))
    size, trained = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, part))
    return f"{size:,} parameters" + (
        f", of which {trained:,} are trained," if trained < size else ""
    )

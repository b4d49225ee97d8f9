"""The update and the first state of a configuration: optimizer, schedule, averages and devices put
around a loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

from optim.ema import init_ema, make_ema
from optim.freezing import make_is_trained
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule, make_warm_up
from training import fitting, parallel
from training.batching import BatchPlan, make_plan, micro_batch_size
from training.config import RunConfig
from training.parallel import Devices
from training.recipe import Recipe
from training.spikes import init_guard
from training.state import TrainState
from training.step import Loss, Step, make_train_step


def make_update(
    config: RunConfig,
    loss: Loss,
    devices: Devices,
    size: int | None = None,
    plan: BatchPlan | None = None,
) -> Step:
    """The update, for `parallel.compile_step`. `size`: examples a device holds at a time, `plan`:
    how many examples each batch has; None: as configured."""
    training, examples_at = config.training, (plan or make_plan(config.training)).examples
    size = size or micro_batch_size(training, devices)
    return make_train_step(
        parallel.gather_before(loss, devices),
        make_optimizer(config.optim, parallel.spread(devices)),
        make_schedule(config.optim, training.steps, examples_at),
        parallel.count_micro_batches(devices, size),
        parallel.mean_over(devices),
        settings=training,
        is_warm=make_warm_up(config.optim, examples_at),
        update_ema=make_ema(config.optim.ema_decay),
        is_trained=make_is_trained(config.optim.freeze, config.optim.train_only),
    )


def make_state(config: RunConfig, init: Callable[[Any], Any]) -> Callable[[], TrainState]:
    """A function that makes the state before the first update."""
    return partial(
        TrainState.create,
        init,
        make_optimizer(config.optim),
        config.seed,
        config.training.compute_dtype,
        param_dtype=config.training.param_dtype,
        init_ema=init_ema if config.optim.ema_decay else None,
        guard=init_guard(config.training),
    )


def choose_micro_batch(config: RunConfig, recipe: Recipe, devices: Devices) -> int:
    """Examples a device holds at a time: as configured, or as many as fit."""
    if config.training.micro_batch_size != "auto":
        return micro_batch_size(config.training, devices)
    return fitting.find_micro_batch(
        make_plan(config.training),
        devices,
        partial(make_update, config, recipe.loss, devices),
        make_state(config, recipe.init),
        recipe.batch_shapes,
    )

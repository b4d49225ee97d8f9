"""One optimizer update, as a pure function of the state and a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from common.batch import HostBatch
from optim.freezing import IsTrained, trained_part, with_trained
from optim.loss_scale import adjust
from training.config import TrainingConfig
from training.update.gradients import Gradients, step_key
from training.update.loss import B, Loss, LossContext, Means
from training.update.observables import Observable, Update, observe
from training.update.players import MODEL, Player, Players, move_players
from training.update.precision import TAG, at_precision, round_like, to_float32
from training.update.spikes import judge, new_if
from training.update.state import TrainState
from training.update.step_metrics import ScaleMetrics, StepMetrics

Step = Callable[[TrainState, B], tuple[TrainState, StepMetrics]]
"""(state, batch) → (new state, metrics)."""
UpdateEma = Callable[[PyTree, PyTree, PyTree, Array], PyTree]
"""(averages, parameters, optimizer state, finished updates) → new averages."""
CompiledStep = Callable[[TrainState, HostBatch], tuple[TrainState, StepMetrics]]
"""(state, this process's rows of the batch) → (new state, metrics)."""
PLAIN = TrainingConfig(on_spike="off")


@dataclass(frozen=True)
class StepParts(Generic[B]):
    """The parts of an update; the optional ones have a default."""

    loss: Loss[B]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    micro_batches: Callable[[int], int] = lambda rows: 1
    """Number of rows that the step gets → number of micro-batches."""
    mean_over_devices: Callable[[PyTree], PyTree] = lambda tree: tree
    """See training/devices/in_step.py."""
    settings: TrainingConfig = PLAIN
    """Settings of the guard, of the loss scale, and of precision."""
    is_warm: Callable[[Array], Array] = lambda step: jnp.bool_(True)
    """Number of finished updates → True once the warm-up of the learning rate is over. The guard
    skips spikes only after it; it skips NaN and infinity always."""
    update_ema: UpdateEma | None = None
    is_trained: IsTrained | None = None
    """Path → True for a trained parameter. Frozen ones get no gradient, which saves memory."""
    observables: Sequence[Observable] = ()
    players: Players = field(default_factory=dict)
    """Further sets of parameters; the state holds a state for each of them."""
    shares: int = 1
    """Number of devices that each run the step on their own share of a batch (pmap)."""


def train_step(parts: StepParts[B], state: TrainState, batch: B) -> tuple[TrainState, StepMetrics]:
    """(the state after one update, its metrics); a pure function.

    Gradients are means over the micro-batches, then over the devices. If the state has a guard
    (training/update/spikes.py), an update with a NaN or a spike leaves parameters, optimizer state
    and averages unchanged.
    """
    with at_precision(parts.settings.matmul_precision):
        trained = trained_part(state.params, parts.is_trained)
        gradients = Gradients(
            state,
            batch,
            parts.micro_batches(len(batch["example_index"])),
            LossContext(state.step, _parameters(state)),
            parts.mean_over_devices,
            parts.shares,
        )
        model_loss = _of_trained_part(parts.loss, state.params)

        # 1. The gradient of the loss.
        wants_parts = any(look.wants_parts for look in parts.observables if look.every)
        mean = gradients.at(model_loss, trained, wants_parts)
        metrics, grad_norm = mean.metrics, optax.tree.norm(mean.grads)
        rate = parts.schedule(state.step)

        # 2. The new parameters, of the model and of the other players.
        updates, new = _move(parts, state, trained, mean.grads, rate)
        if state.players is not None:
            gradient = partial(_player_gradient, gradients)
            moved, more = move_players(parts.players, state.players, state.step, gradient)
            new, metrics = new._replace(players=moved), metrics | more

        # 3. The observables that are due.
        update = Update(
            grads=mean.grads,
            params=state.params,
            updates=updates,
            opt_state=new.opt_state,
            step=state.step,
            loss=mean.loss,
            metrics=metrics,
            recompute=gradients.recompute(model_loss, to_float32(trained), mean.parts),
        )
        observed = observe(parts.observables, update)
        params_norm = optax.tree.norm(to_float32(new.params))
        result = StepMetrics(mean.loss, grad_norm, params_norm, rate, metrics, observed=observed)

        # 4. The guard: the old state in place of a harmful new one.
        new, result = _guarded(parts, state, new, result)
        return new._replace(step=state.step + 1), result


def _of_trained_part(loss: Loss[B], params: PyTree) -> Loss[B]:
    """The loss as a function of the trained parameters; the frozen ones are those in `params`."""

    def of_part(
        part: PyTree, batch: B, keys: Key[Array, " b"], context: LossContext
    ) -> tuple[Array, Means]:
        return loss(with_trained(params, part), batch, keys, context)

    return of_part


def _player_gradient(
    gradients: Gradients[B], player: Player, params: PyTree
) -> tuple[PyTree, dict[str, Array]]:
    """(gradient of a player's loss, its metrics)."""
    result = gradients.at(player.loss, params)
    return result.grads, {"loss": result.loss, **result.metrics}


def _move(
    parts: StepParts[B], state: TrainState, trained: PyTree, grads: PyTree, learning_rate: Array
) -> tuple[PyTree, TrainState]:
    """(the updates that are added to the trained parameters, the state with new parameters,
    optimizer state and averages)."""
    direction = optax.with_extra_args_support(parts.optimizer).update
    exact = to_float32(trained)
    updates, opt_state = direction(grads, state.opt_state, exact, learning_rate=learning_rate)
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    rounding = jax.random.fold_in(step_key(state), TAG)
    moved = round_like(optax.apply_updates(exact, updates), trained, rounding)
    new = state._replace(params=with_trained(state.params, moved), opt_state=opt_state)
    if parts.update_ema is not None:  # averages of frozen parameters stay equal to them
        before = trained_part(state.ema, parts.is_trained)
        averages = parts.update_ema(before, moved, opt_state, state.step)
        new = new._replace(ema=with_trained(state.ema, averages))
    return updates, new


def _parameters(state: TrainState) -> dict[str, PyTree]:
    """The parameters of the model and of each further player, by name."""
    others = {name: player.params for name, player in (state.players or {}).items()}
    return {MODEL: state.params, **others}


def _norm_of_all(parts: StepParts[B], old: TrainState, metrics: StepMetrics) -> Array:
    """The norm of the model's gradient; NaN if a player's gradient has a NaN or infinity."""
    norm = metrics.grad_norm
    for name in old.players or {}:  # before its first step a player's norm is NaN
        has_begun = old.step >= parts.players[name].first_step
        bad = has_begun & ~jnp.isfinite(metrics.more[f"{name}/norm/grad"])
        norm = jnp.where(bad, jnp.nan, norm)
    return norm


def _guarded(
    parts: StepParts[B], old: TrainState, new: TrainState, metrics: StepMetrics
) -> tuple[TrainState, StepMetrics]:
    """The new state, or the old one if the update holds a NaN, is a spike, or overflowed float16.

    The loss scale falls only for gradients that are not finite: it cannot repair weights that
    become NaN although their gradient is finite.
    """
    if old.guard is None and old.loss_scale is None:
        return new, metrics
    settings, is_warm = parts.settings, parts.is_warm(old.step)
    norm = _norm_of_all(parts, old, metrics)
    finite = jnp.isfinite(metrics.loss) & jnp.isfinite(norm)
    good = finite & jnp.isfinite(metrics.params_norm)
    is_scale_too_high = jnp.bool_(False)
    if old.loss_scale is not None:
        is_scale_too_high = ~finite & (old.loss_scale.scale > settings.loss_scale_floor)
    guard, judgement = None, None
    if old.guard is not None:
        good, guard, judgement = judge(
            old.guard,
            settings,
            is_warm,
            metrics.loss,
            norm,
            metrics.params_norm,
            is_scale_too_high,
        )
    fields = ("ema", "opt_state", "params", "players")
    chosen = {name: new_if(good, getattr(new, name), getattr(old, name)) for name in fields}
    new = old._replace(**chosen, guard=guard)
    scale = None
    if old.loss_scale is not None:
        window, floor = settings.loss_scale_window, settings.loss_scale_floor
        new = new._replace(loss_scale=adjust(old.loss_scale, finite, window, floor))
        scale = ScaleMetrics(old.loss_scale.scale, (~finite).astype(jnp.float32))
    return new, metrics._replace(guard=judgement, loss_scale=scale)

"""One optimizer update, as a pure function of the state and a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from optim.freezing import IsTrained, trained_part, with_trained
from optim.loss_scale import adjust
from training.config import TrainingConfig
from training.update.gradients import (
    LOSS,
    Batch,
    Gradients,
    Loss,
    LossContext,
    Metrics,
    step_key,
)
from training.update.observables import OBSERVED, Observable, Update, observe
from training.update.players import MODEL, Players, move_players
from training.update.precision import TAG, at_precision, round_like, widen
from training.update.spikes import judge, keep_unless
from training.update.state import TrainState

Observed = dict[str, Any]
"""Metrics, and under OBSERVED a dict of the values of observables.py"""
Step = Callable[[TrainState, Batch], tuple[TrainState, Observed]]
"""(state, batch) → (new state, metrics, with the values of observables.py under OBSERVED)"""
UpdateEma = Callable[[PyTree, PyTree, PyTree, Array], PyTree]
"""(averages, parameters, optimizer's state, finished updates) → averages"""
MicroBatches = Callable[[int], int]
"""Rows of a batch, as the step sees them → the number of micro-batches they are taken in"""
IsWarm = Callable[[Array], Array]
"""Finished updates → whether the learning rate's warm-up is over"""


PLAIN = TrainingConfig(on_spike="off")


@dataclass(frozen=True)
class Extras:
    """Parts of an update besides loss, optimizer and schedule."""

    settings: TrainingConfig = PLAIN
    """Settings of the guard and of precision."""
    is_warm: IsWarm = lambda step: jnp.bool_(True)
    """Until the learning rate is warm, only NaN and infinity count as harm."""
    update_ema: UpdateEma | None = None
    is_trained: IsTrained | None = None
    """Other parameters get no gradient, which saves its memory and its computation."""
    observables: Sequence[Observable] = ()
    players: Players = field(default_factory=dict)
    """The state holds a state for each of them."""
    shares: int = 1
    """Shares of a batch, of which a step sees one."""


NO_EXTRAS = Extras()


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    micro_batches: int | MicroBatches = 1,
    mean_over_devices: Callable[[PyTree], PyTree] = lambda tree: tree,
    extras: Extras = NO_EXTRAS,
) -> Step:
    """The update for a loss, a pure function of one share of a batch. `mean_over_devices`: see
    parallel.py.

    If the state has a guard (training/update/spikes.py), an update that would do harm leaves
    parameters, optimizer and averages unchanged.
    """
    settings, is_trained, players = extras.settings, extras.is_trained, extras.players
    move = _make_move(optimizer, extras.update_ema, is_trained)
    observables = [one for one in extras.observables if one.every]
    wants_parts = any(one.wants_parts for one in observables)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Observed]:
        rows = len(batch["example_index"])
        count = micro_batches(rows) if callable(micro_batches) else micro_batches
        trained = trained_part(state.params, is_trained)
        context = LossContext(state.step, _parameters(state))

        found = Gradients(state, batch, count, context, mean_over_devices, extras.shares)
        model_loss = lambda part, *more: loss(with_trained(state.params, part), *more)  # noqa: E731
        grads, metrics, parts = found.at(model_loss, trained, LOSS, wants_parts)
        learning_rate = schedule(state.step)
        metrics["norm/grad"] = optax.tree.norm(grads)
        metrics["schedule/learning_rate"] = learning_rate

        updates, new = move(state, trained, grads, learning_rate)
        if state.players is not None:
            own = lambda player, params: found.at(player.loss, params, "loss")[:2]  # noqa: E731
            moved_players, told = move_players(players, state.players, state.step, own)
            new, metrics = new._replace(players=moved_players), metrics | told
        again = found.again(model_loss, widen(trained), parts)
        seen = Update(grads, state.params, updates, new.opt_state, state.step, metrics, again)
        observed = observe(observables, seen)
        metrics["norm/params"] = optax.tree.norm(widen(new.params))
        new, metrics = _guarded(
            *(state, new, metrics, settings, extras.is_warm(state.step)),
            {name: player.first_step for name, player in players.items()},
        )
        everything = {**metrics, OBSERVED: observed} if observed else metrics
        return new._replace(step=state.step + 1), everything

    return at_precision(step, settings.matmul_precision)


def _make_move(
    optimizer: optax.GradientTransformation,
    update_ema: UpdateEma | None,
    is_trained: IsTrained | None,
) -> Callable[[TrainState, PyTree, PyTree, Array], tuple[PyTree, TrainState]]:
    """A function: (state, its trained parameters, their gradient, learning rate) → the updates that
    are added, and the state with the new parameters, optimizer state and averages."""
    direction = optax.with_extra_args_support(optimizer).update

    def move(
        state: TrainState, trained: PyTree, grads: PyTree, learning_rate: Array
    ) -> tuple[PyTree, TrainState]:
        exact = widen(trained)
        updates, opt_state = direction(grads, state.opt_state, exact, learning_rate=learning_rate)
        updates = jax.tree.map(lambda u: -learning_rate * u, updates)
        rounding = jax.random.fold_in(step_key(state), TAG)
        moved = round_like(optax.apply_updates(exact, updates), trained, rounding)
        params = with_trained(state.params, moved)
        new = state._replace(params=params, opt_state=opt_state)
        if update_ema is not None:  # of frozen parameters it is what they are
            before = trained_part(state.ema, is_trained)
            averages = update_ema(before, moved, opt_state, state.step)
            new = new._replace(ema=with_trained(state.ema, averages))
        return updates, new

    return move


def _parameters(state: TrainState) -> dict[str, PyTree]:
    """The parameters of the model and of each player, by name."""
    others = {name: player.params for name, player in (state.players or {}).items()}
    return {MODEL: state.params, **others}


def _guarded(
    old: TrainState,
    new: TrainState,
    metrics: Metrics,
    settings: TrainingConfig,
    is_warm: Bool[Array, ""],
    first_steps: Mapping[str, int],
) -> tuple[TrainState, Metrics]:
    """The new state, or the old one if the update would do harm or float16 overflowed.

    Finite gradients may give weights with a NaN, which a lower loss scale would not help.
    """
    if old.guard is None and old.loss_scale is None:
        return new, metrics
    value, norm = metrics["train/loss"], metrics["norm/grad"]
    for name in old.players or {}:  # one that waits is NaN
        bad = (old.step >= first_steps[name]) & ~jnp.isfinite(metrics[f"{name}/norm/grad"])
        norm = jnp.where(bad, jnp.nan, norm)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    good = finite & jnp.isfinite(metrics["norm/params"])
    is_scale_too_high = jnp.bool_(False)
    if old.loss_scale is not None:
        is_scale_too_high = ~finite & (old.loss_scale.scale > settings.loss_scale_floor)
    guard = None
    if old.guard is not None:
        good, guard, told = judge(
            *(old.guard, settings, is_warm, value, norm, metrics["norm/params"]), is_scale_too_high
        )
        metrics |= told
    what = lambda state: (state.params, state.opt_state, state.ema, state.players)  # noqa: E731
    kept = keep_unless(good, what(new), what(old))
    new = old._replace(params=kept[0], opt_state=kept[1], ema=kept[2], players=kept[3], guard=guard)
    if old.loss_scale is not None:
        window, floor = settings.loss_scale_window, settings.loss_scale_floor
        new = new._replace(loss_scale=adjust(old.loss_scale, finite, window, floor))
        metrics["loss_scale/scale"] = old.loss_scale.scale
        metrics["loss_scale/skipped"] = (~finite).astype(jnp.float32)
    return new, metrics

"""Players: further sets of parameters that are trained beside the model's, such as a discriminator.
Each has its own loss, optimizer, schedule and first step.

All players are updated simultaneously: each loss sees the parameters of the others before the
update.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from training.update.loss import Loss

MODEL = "model"
"""Name of the model's own parameters among a context's `players`."""


class PlayerState(NamedTuple):
    """The state of a player after an update."""

    params: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class Player:
    """A further set of parameters, and how it is trained."""

    init: Callable[[Key[Array, ""]], PyTree]
    """Random parameters, in float32."""
    loss: Loss
    """Like the model's loss, with its own parameters in place of the model's."""
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    """Learning rate, a function of the finished updates of the run."""
    first_step: int = 0
    """Number of the run's updates before the player's first one; until then it costs nothing."""


Players = Mapping[str, Player]
Gradient = Callable[[Player, PyTree], tuple[PyTree, dict[str, Array]]]
"""(player, its parameters) → (gradient, metrics), means over the batch."""


def init_players(players: Players, key: Key[Array, ""]) -> dict[str, PlayerState] | None:
    """The state of each player before the first update, by name; None without players."""
    states = {}
    for place, (name, player) in enumerate(sorted(players.items())):
        params = player.init(jax.random.fold_in(key, place))
        states[name] = PlayerState(params, player.optimizer.init(params))
    return states or None


def move_players(
    players: Players, states: Mapping[str, PlayerState], step: Array, gradient: Gradient
) -> tuple[dict[str, PlayerState], dict[str, Array]]:
    """(states after one update, metrics). Each metric's name begins with its player's, such as
    discriminator/norm/grad. It is NaN before the player's first step."""
    moved: dict[str, PlayerState] = {}
    metrics: dict[str, Array] = {}
    for name, player in sorted(players.items()):
        moved[name], player_metrics = _move(player, states[name], step, gradient)
        metrics |= {f"{name}/{key}": value for key, value in player_metrics.items()}
    return moved, metrics


def _move(
    player: Player, state: PlayerState, step: Array, gradient: Gradient
) -> tuple[PlayerState, dict[str, Array]]:
    direction = optax.with_extra_args_support(player.optimizer).update

    def move(state: PlayerState) -> tuple[PlayerState, dict[str, Array]]:
        grads, metrics = gradient(player, state.params)
        rate = player.schedule(step)
        updates, opt_state = direction(grads, state.opt_state, state.params, learning_rate=rate)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        metrics = {**metrics, "norm/grad": optax.tree.norm(grads)}
        return PlayerState(optax.apply_updates(state.params, updates), opt_state), metrics

    def wait(state: PlayerState) -> tuple[PlayerState, dict[str, Array]]:
        _, metrics = jax.eval_shape(move, state)
        return state, {k: jnp.full(v.shape, jnp.nan, v.dtype) for k, v in metrics.items()}

    if not player.first_step:
        return move(state)
    return jax.lax.cond(step >= player.first_step, move, wait, state)

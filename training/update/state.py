"""The training state: a plain pytree, stored whole in each checkpoint."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from optim.loss_scale import LossScale, init_loss_scale
from training.config import ParamDtype
from training.update.players import Players, PlayerState, init_players
from training.update.precision import to_param_dtype
from training.update.spikes import Guard

PLAYERS = 1


class TrainState(NamedTuple):
    """The state after `step` finished updates. Key and step determine every random number."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    key_data: UInt32[Array, "..."]
    loss_scale: LossScale | None
    ema: PyTree = None
    """Moving average of the parameters, a tree of the same structure; None without one."""
    guard: Guard | None = None
    """Recent losses and norms (training/update/spikes.py); None without a guard."""
    players: dict[str, PlayerState] | None = None
    """State of each further player by name (training/update/players.py); None without any."""

    @property
    def weights(self) -> PyTree:
        """The weights to evaluate and draw with: the average if there is one, else `params`."""
        return self.params if self.ema is None else self.ema

    @classmethod
    def create(
        cls,
        init: Callable[[Array], PyTree],
        optimizer: optax.GradientTransformation,
        seed: int | UInt32[Array, ""],
        compute_dtype: str = "float32",
        *,
        param_dtype: ParamDtype = "float32",
        init_ema: Callable[[PyTree], PyTree] | None = None,
        players: Players = MappingProxyType({}),
    ) -> "TrainState":
        """The state before the first update; with float16 it holds a loss scale. `init` returns
        float32; only `params` are then cast to `param_dtype`."""
        for_params, for_steps = jax.random.split(jax.random.key(seed))
        params = init(for_params)
        return cls(
            step=jnp.int32(0),
            params=to_param_dtype(params, param_dtype),
            opt_state=optimizer.init(params),
            key_data=jax.random.key_data(for_steps),
            loss_scale=init_loss_scale() if compute_dtype == "float16" else None,
            ema=None if init_ema is None else init_ema(params),
            players=init_players(players, jax.random.fold_in(for_params, PLAYERS)),
        )


def is_finite(state: TrainState) -> bool:
    """True if parameters, averages, optimizer and further players have no NaN and no infinity.
    Collective: every process must call it."""
    held = (state.params, state.ema, state.opt_state, state.players)
    return bool(
        _are_finite([x for x in jax.tree.leaves(held) if jnp.issubdtype(x.dtype, jnp.inexact)])
    )


@jax.jit
def _are_finite(leaves: list[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]))

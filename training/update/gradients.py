"""Gradients of a loss over a batch: in micro-batches, then over the devices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Int, Key, PyTree

from optim.accumulate import accumulate, accumulate_parts
from training.update.observables import Recompute
from training.update.precision import widen
from training.update.state import TrainState

LOSS = "train/loss"
Batch = dict[str, Array]
Metrics = dict[str, Array]
Means = Mapping[str, Array | Partial]
"""Metrics of a loss: means over rows. `Partial(function, *means)` is a metric that is a function of
means, such as a perplexity: the function gets the means over all micro-batches and devices."""

Parts = tuple[PyTree, Array] | None
"""Gradients and objectives of this device's micro-batches, stacked, where they are wanted."""


class LossContext(NamedTuple):
    """Values that a loss may read in addition to its parameters, batch and keys."""

    step: Int[Array, ""]
    """Finished updates."""
    players: Mapping[str, PyTree] = {}
    """Parameters of the model (`model`) and of each further player, by name; see players.py."""


Loss = Callable[[PyTree, Batch, Key[Array, " b"], LossContext], tuple[Array, Means]]
"""(parameters, batch, a key for each example, context) → (objective, metrics)."""


def example_keys(state: TrainState, example_index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example of an update. It depends on neither device nor micro-batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key(state), example_index)


def step_key(state: TrainState) -> Key[Array, ""]:
    """The key from which all randomness of an update derives."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)


@dataclass(frozen=True)
class Gradients:
    """The gradients of one update, as functions of loss and parameters."""

    state: TrainState
    batch: Batch
    micro_batches: int
    context: LossContext
    mean_over_devices: Callable[[PyTree], PyTree]
    shares: int
    """Number of devices that each run the step on their own share of the batch (pmap)."""

    def at(
        self, loss: Loss, params: PyTree, name: str, wants_parts: bool = False
    ) -> tuple[PyTree, Metrics, Parts]:
        """(gradient, metrics, parts), where gradient and metrics are means over the batch, and the
        metric `name` is the objective. With `wants_parts`, parts are the gradients and objectives
        of this device's micro-batches, stacked; None otherwise."""
        found, parts = self._mean(loss, params, name, wants_parts)
        grads, means = self.mean_over_devices(found)
        metrics = {k: v() if isinstance(v, Partial) else v for k, v in means.items()}
        return grads, metrics, parts

    def recompute(self, loss: Loss, trained: PyTree, parts: Parts) -> Recompute:
        """Further passes over the same batch, for observables; `parts` is a result of `at`."""

        def parts_at(params: PyTree) -> tuple[PyTree, Array]:
            found = self.at(loss, params, LOSS, True)[2]
            assert found is not None  # they are wanted
            return found

        held, losses = parts or (None, None)
        rows, count = len(self.batch["example_index"]), self.micro_batches
        return Recompute(
            parts=held,
            losses=losses,
            count=count * self.shares,
            size=rows // count,
            trained=trained,
            parts_at=parts_at,
            gradient_at=lambda params: self.at(loss, params, LOSS)[0],
            mean_over_rows=lambda look: self.mean_over_devices(accumulate(look, self.batch, count)),
            mean=self.mean_over_devices,
            key=step_key(self.state),
        )

    def _mean(
        self, loss: Loss, params: PyTree, name: str, wants_parts: bool
    ) -> tuple[tuple[PyTree, Means], Parts]:
        """`at` for this device only: means over its micro-batches, divided by the loss scale."""
        state, batch, count = self.state, self.batch, self.micro_batches
        scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale

        def scaled(params: PyTree, part: Batch, keys: Key[Array, " b"]) -> tuple[Array, Means]:
            value, metrics = loss(params, part, keys, self.context)
            return value * scale, {name: value, **metrics}

        def gradient(part_and_keys: tuple[Batch, Array]) -> tuple[PyTree, Means]:
            part, key_data = part_and_keys
            keys = jax.random.wrap_key_data(key_data)
            grads, metrics = jax.grad(scaled, has_aux=True)(params, part, keys)
            return widen(grads), metrics

        keys = example_keys(state, batch["example_index"])
        both = batch, jax.random.key_data(keys)
        unscaled = partial(jax.tree.map, lambda g: g / scale)
        if not wants_parts:
            grads, metrics = accumulate(gradient, both, count)
            return (unscaled(grads), metrics), None
        (grads, metrics), kept = accumulate_parts(
            gradient, both, count, lambda found: (unscaled(found[0]), found[1][name])
        )
        return (unscaled(grads), metrics), kept

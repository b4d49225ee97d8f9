"""Gradients of a loss over a batch: in micro-batches, over devices, and once more for whoever looks
inside of the update."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Int, Key, PyTree

from optim.accumulate import accumulate, accumulate_parts
from training.update.observables import Again
from training.update.precision import widen
from training.update.state import TrainState

LOSS = "train/loss"
Batch = dict[str, Array]
Metrics = dict[str, Array]
Means = Mapping[str, Array | Partial]
"""Means over rows. `Partial(function, *means)` is a metric that is not itself a mean, such as a
perplexity: the function gets the means over all micro-batches and devices."""


class LossContext(NamedTuple):
    """Arguments of a loss besides parameters, batch and keys."""

    step: Int[Array, ""]
    """Finished updates."""
    players: Mapping[str, PyTree] = {}
    """Parameters of all that are trained together (see players.py), by name; the model's own as
    `model`."""


Loss = Callable[[PyTree, Batch, Key[Array, " b"], LossContext], tuple[Array, Means]]
"""(parameters, batch, a key for each example, context) → (the objective, metrics)"""


def example_keys(state: TrainState, example_index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example of an update, the same on any device and in any micro-batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key(state), example_index)


def step_key(state: TrainState) -> Key[Array, ""]:
    """The key from which all randomness of an update derives."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)


@dataclass(frozen=True)
class Gradients:
    """Computes the gradients of one update."""

    state: TrainState
    batch: Batch
    micro_batches: int
    context: LossContext
    mean_over_devices: Callable[[PyTree], PyTree]
    shares: int
    """Devices that see other rows, each in a program of its own."""

    def at(
        self, loss: Loss, params: PyTree, name: str, wants_parts: bool = False
    ) -> tuple[PyTree, Metrics, Any]:
        """Gradient, and metrics with the objective as `name`: means over the batch. With
        `wants_parts` gradients and objectives of this device's micro-batches, too, stacked."""
        found, parts = self._mean(loss, params, name, wants_parts)
        grads, means = self.mean_over_devices(found)
        metrics = {k: v() if isinstance(v, Partial) else v for k, v in means.items()}
        return grads, metrics, parts

    def again(self, loss: Loss, trained: PyTree, parts: Any) -> Again:
        """Functions that compute parts of this update once more, for observables; `parts` as
        returned by `at`."""
        held, losses = parts or (None, None)
        rows, count = len(self.batch["example_index"]), self.micro_batches
        return Again(
            parts=held,
            losses=losses,
            count=count * self.shares,
            size=rows // count,
            trained=trained,
            parts_at=lambda params: self.at(loss, params, LOSS, True)[2],
            gradient_at=lambda params: self.at(loss, params, LOSS)[0],
            over_rows=lambda look: self.mean_over_devices(accumulate(look, self.batch, count)),
            mean=self.mean_over_devices,
            key=step_key(self.state),
        )

    def _mean(
        self, loss: Loss, params: PyTree, name: str, wants_parts: bool
    ) -> tuple[tuple[PyTree, Means], Any]:
        """Gradient and metrics as `at`, averaged over this device's micro-batches, without the loss
        scale; and, with `wants_parts`, gradients and objectives of the micro-batches, stacked."""
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
        keep = lambda found: (unscaled(found[0]), found[1][name])  # noqa: E731
        (grads, metrics), kept = accumulate_parts(gradient, both, count, keep)
        return (unscaled(grads), metrics), kept

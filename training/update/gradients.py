"""Gradients of a loss over a batch: in micro-batches, then over the devices."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Int, Key, PyTree

from optim.accumulate import accumulate, accumulate_parts
from training.update.loss import B, Loss, LossContext, Means
from training.update.observables import Recompute
from training.update.precision import to_float32
from training.update.state import TrainState

Parts = tuple[PyTree, Array] | None
"""Gradients and objectives of this device's micro-batches, stacked, where they are wanted."""


class Gradient(NamedTuple):
    """The gradient of a loss over the batch."""

    grads: PyTree
    loss: Array
    """The objective; like `grads`, a mean over the batch."""
    metrics: dict[str, Array]
    """The metrics of the loss."""
    parts: Parts


def example_keys(state: TrainState, example_index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example of an update. It depends on neither device nor micro-batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key(state), example_index)


def step_key(state: TrainState) -> Key[Array, ""]:
    """The key from which all randomness of an update derives."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)


@dataclass(frozen=True)
class Gradients(Generic[B]):
    """The gradients of one update, as functions of loss and parameters."""

    state: TrainState
    batch: B
    micro_batches: int
    context: LossContext
    mean_over_devices: Callable[[PyTree], PyTree]
    shares: int
    """Number of devices that each run the step on their own share of the batch (pmap)."""

    def at(self, loss: Loss[B], params: PyTree, wants_parts: bool = False) -> Gradient:
        """The gradient at these parameters. `parts` are kept only if they are wanted."""
        of_device, parts = self._mean(loss, params, wants_parts)
        grads, (value, means) = self.mean_over_devices(of_device)
        metrics = {k: v() if isinstance(v, Partial) else v for k, v in means.items()}
        return Gradient(grads, value, metrics, parts)

    def recompute(self, loss: Loss[B], trained: PyTree, parts: Parts) -> Recompute:
        """Further passes over the same batch, for observables; `parts` is from a result of `at`."""

        def parts_at(params: PyTree) -> tuple[PyTree, Array]:
            parts = self.at(loss, params, wants_parts=True).parts
            assert parts is not None  # they are wanted
            return parts

        held, losses = parts or (None, None)
        rows, count = len(self.batch["example_index"]), self.micro_batches
        return Recompute(
            parts=held,
            losses=losses,
            count=count * self.shares,
            size=rows // count,
            trained=trained,
            parts_at=parts_at,
            gradient_at=lambda params: self.at(loss, params).grads,
            mean_over_rows=lambda look: self.mean_over_devices(accumulate(look, self.batch, count)),
            mean=self.mean_over_devices,
            key=step_key(self.state),
        )

    def _mean(
        self, loss: Loss[B], params: PyTree, wants_parts: bool
    ) -> tuple[tuple[PyTree, tuple[Array, Means]], Parts]:
        """((gradient, (objective, metrics)), parts) of this device only: means over its
        micro-batches. The gradients are divided by the loss scale."""
        state, batch, count = self.state, self.batch, self.micro_batches
        scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale

        def scaled(
            params: PyTree, part: B, keys: Key[Array, " b"]
        ) -> tuple[Array, tuple[Array, Means]]:
            value, metrics = loss(params, part, keys, self.context)
            return value * scale, (value, metrics)

        def gradient(part_and_keys: tuple[B, Array]) -> tuple[PyTree, tuple[Array, Means]]:
            part, key_data = part_and_keys
            keys = jax.random.wrap_key_data(key_data)
            grads, value_and_metrics = jax.grad(scaled, has_aux=True)(params, part, keys)
            return to_float32(grads), value_and_metrics

        keys = example_keys(state, batch["example_index"])
        both = batch, jax.random.key_data(keys)
        unscaled = partial(jax.tree.map, lambda g: g / scale)
        if not wants_parts:
            grads, means = accumulate(gradient, both, count)
            return (unscaled(grads), means), None
        (grads, means), parts = accumulate_parts(
            gradient, both, count, lambda result: (unscaled(result[0]), result[1][0])
        )
        return (unscaled(grads), means), parts

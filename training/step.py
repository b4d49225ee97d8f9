"""One optimizer update, as a pure function of the state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from optim.accumulate import accumulate
from optim.loss_scale import adjust, is_finite
from training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]
Loss = Callable[[Any, Batch, Key[Array, "b"]], tuple[Array, Metrics]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def example_keys(state: TrainState, example_index: Int[Array, "b"]) -> Key[Array, "b"]:
    """A key for each example of an update, whatever device and micro-batch it lies in."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, example_index)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulation_steps: int = 1,
    mean_over_devices: Callable[[Any], Any] = lambda tree: tree,
) -> Step:
    """The update for a loss; `mean_over_devices` is given by training/parallel.py."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, metrics = _mean_gradient(loss, state, batch, accumulation_steps)
        grads, metrics = mean_over_devices((grads, metrics))
        learning_rate = schedule(state.step)
        metrics["norm/grad"] = optax.tree.norm(grads)
        metrics["schedule/learning_rate"] = learning_rate

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: -learning_rate * u, updates)
        params = optax.apply_updates(state.params, updates)
        new = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        if state.loss_scale is not None:
            new, metrics = _guard(state, new, grads, metrics)
        metrics["norm/params"] = optax.tree.norm(new.params)
        return new, metrics

    return step


def _mean_gradient(
    loss: Loss, state: TrainState, batch: Batch, accumulation_steps: int
) -> tuple[Any, Metrics]:
    """Gradient and metrics averaged over the micro-batches, with the loss scale taken out again."""
    scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale

    def scaled(params: Any, part: Batch, keys: Key[Array, "b"]) -> tuple[Array, Metrics]:
        value, metrics = loss(params, part, keys)
        return value * scale, {"train/loss": value, **metrics}

    def gradient(part_and_keys: tuple[Batch, Array]) -> tuple[Any, Metrics]:
        part, key_data = part_and_keys
        keys = jax.random.wrap_key_data(key_data)
        grads, metrics = jax.grad(scaled, has_aux=True)(state.params, part, keys)
        return grads, metrics

    keys = example_keys(state, batch["example_index"])
    grads, metrics = accumulate(gradient, (batch, jax.random.key_data(keys)), accumulation_steps)
    return jax.tree.map(lambda g: g / scale, grads), metrics


def _guard(
    old: TrainState, new: TrainState, grads: Any, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """float16: keep parameters and optimizer as they were when the gradients overflowed."""
    assert old.loss_scale is not None
    finite = is_finite(grads)
    params, opt_state = jax.tree.map(
        lambda fresh, kept: jnp.where(finite, fresh, kept),
        (new.params, new.opt_state),
        (old.params, old.opt_state),
    )
    metrics["loss_scale/scale"] = old.loss_scale.scale
    metrics["loss_scale/skipped"] = (~finite).astype(jnp.float32)
    loss_scale = adjust(old.loss_scale, finite)
    return new._replace(params=params, opt_state=opt_state, loss_scale=loss_scale), metrics

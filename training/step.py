"""One optimizer update, as a pure function of the state and a batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, Key

from optim.accumulate import accumulate
from optim.freezing import IsTrained, trained_part, with_trained, with_zeros
from optim.loss_scale import adjust
from optim.paths import is_stacked
from training.config import TrainingConfig
from training.digests import path_name
from training.precision import TAG, at_precision, round_like, widen
from training.spikes import judge, keep_unless
from training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Array]
Means = Mapping[str, Array | Partial]
"""Means over rows. `Partial(function, *means)` stands for a metric that is no mean itself, such as
a perplexity: the function gets the means over all micro-batches and devices."""


class Moment(NamedTuple):
    """What a loss may depend on besides parameters, batch and keys."""

    step: Int[Array, ""]
    """Finished updates."""


Loss = Callable[[Any, Batch, Key[Array, " b"], Moment], tuple[Array, Means]]
"""(parameters, batch, a key for each example, moment) → (the objective, metrics)"""
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
UpdateEma = Callable[[Any, Any, Array], Any]
"""(averages, parameters, finished updates) → averages"""
MicroBatches = Callable[[int], int]
"""Rows of a batch, as the step sees them → how many micro-batches they are taken in"""
IsWarm = Callable[[Array], Array]
"""Finished updates → whether the learning rate's warm-up is over"""

TENSORS = "tensors"
PLAIN = TrainingConfig(on_spike="off")


def example_keys(state: TrainState, example_index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example of an update, whatever device and micro-batch it lies in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key(state), example_index)


def step_key(state: TrainState) -> Key[Array, ""]:
    """What an update's randomness comes from."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    micro_batches: int | MicroBatches = 1,
    mean_over_devices: Callable[[Any], Any] = lambda tree: tree,
    *,
    settings: TrainingConfig = PLAIN,
    is_warm: IsWarm = lambda step: jnp.bool_(True),
    update_ema: UpdateEma | None = None,
    is_trained: IsTrained | None = None,
) -> Step:
    """The update for a loss; `mean_over_devices` is given by training/parallel.py. Parameters that
    are not `is_trained` get no gradient, which saves its memory and the work behind it.

    Where the state has a guard (training/spikes.py), an update that would do harm leaves
    parameters, optimizer and averages as they were; until the learning rate `is_warm` only what is
    no number does.
    """
    direction = optax.with_extra_args_support(optimizer).update

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rows = len(batch["example_index"])
        count = micro_batches(rows) if callable(micro_batches) else micro_batches
        trained = trained_part(state.params, is_trained)
        grads, means = mean_over_devices(_mean_gradient(loss, state, trained, batch, count))
        metrics: Metrics = {k: v() if isinstance(v, Partial) else v for k, v in means.items()}
        learning_rate = schedule(state.step)
        metrics["norm/grad"] = optax.tree.norm(grads)
        metrics["schedule/learning_rate"] = learning_rate

        exact = widen(trained)
        updates, opt_state = direction(grads, state.opt_state, exact, learning_rate=learning_rate)
        updates = jax.tree.map(lambda u: -learning_rate * u, updates)
        rounding = jax.random.fold_in(step_key(state), TAG)
        moved = round_like(optax.apply_updates(exact, updates), trained, rounding)
        params = with_trained(state.params, moved)
        new = state._replace(params=params, opt_state=opt_state)
        if update_ema is not None:  # of frozen parameters it is what they are
            averages = update_ema(trained_part(state.ema, is_trained), moved, state.step)
            new = new._replace(ema=with_trained(state.ema, averages))
        if settings.norms_every:
            is_due = (state.step + 1) % settings.norms_every == 0
            metrics[TENSORS] = tensor_norms(grads, state.params, updates, is_due)
        metrics["norm/params"] = optax.tree.norm(widen(params))
        new, metrics = _guarded(state, new, metrics, settings, is_warm(state.step))
        return new._replace(step=state.step + 1), metrics

    return at_precision(step, settings.matmul_precision)


def _mean_gradient(
    loss: Loss, state: TrainState, trained: Any, batch: Batch, micro_batches: int
) -> tuple[Any, Means]:
    """Gradient of the trained parameters, and metrics, averaged over the micro-batches, with the
    loss scale taken out again."""
    scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale

    def scaled(trained: Any, part: Batch, keys: Key[Array, " b"]) -> tuple[Array, Means]:
        params = with_trained(state.params, trained)
        value, metrics = loss(params, part, keys, Moment(state.step))
        return value * scale, {"train/loss": value, **metrics}

    def gradient(part_and_keys: tuple[Batch, Array]) -> tuple[Any, Means]:
        part, key_data = part_and_keys
        keys = jax.random.wrap_key_data(key_data)
        grads, metrics = jax.grad(scaled, has_aux=True)(trained, part, keys)
        return widen(grads), metrics

    keys = example_keys(state, batch["example_index"])
    grads, metrics = accumulate(gradient, (batch, jax.random.key_data(keys)), micro_batches)
    return jax.tree.map(lambda g: g / scale, grads), metrics


def _guarded(
    old: TrainState,
    new: TrainState,
    metrics: Metrics,
    settings: TrainingConfig,
    is_warm: Bool[Array, ""],
) -> tuple[TrainState, Metrics]:
    """The new state, or the old one where the update would do harm or float16 overflowed.

    Finite gradients may give weights that are no number, which a lower loss scale would not help.
    """
    if old.guard is None and old.loss_scale is None:
        return new, metrics
    value, norm = metrics["train/loss"], metrics["norm/grad"]
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
    kept = keep_unless(
        good, (new.params, new.opt_state, new.ema), (old.params, old.opt_state, old.ema)
    )
    new = old._replace(params=kept[0], opt_state=kept[1], ema=kept[2], guard=guard)
    if old.loss_scale is not None:
        window, floor = settings.loss_scale_window, settings.loss_scale_floor
        new = new._replace(loss_scale=adjust(old.loss_scale, finite, window, floor))
        metrics["loss_scale/scale"] = old.loss_scale.scale
        metrics["loss_scale/skipped"] = (~finite).astype(jnp.float32)
    return new, metrics


def tensor_norms(
    grads: Any, params: Any, updates: Any, is_due: Bool[Array, ""]
) -> Float[Array, " n"]:
    """Norms of every tensor, a stack's by layer, in the order of `tensor_names`; 0 of gradient and
    update of a frozen one; NaN where they are not due, which costs nothing."""

    def compute() -> Array:
        norms = [
            jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=_own_axes(path, leaf)))
            for tree in (with_zeros(grads, params), params, with_zeros(updates, params))
            for path, leaf in jax.tree.flatten_with_path(tree)[0]
        ]
        return jnp.concatenate([jnp.atleast_1d(norm) for norm in norms])

    count = 3 * len(_parts(params))
    return jax.lax.cond(is_due, compute, lambda: jnp.full((count,), jnp.nan))


def tensor_names(params: Any) -> list[str]:
    """Such as norm/grad/decoder/run0/mlp/up/kernel/0, of layer 0."""
    parts = _parts(params)
    return [f"norm/{kind}/{part}" for kind in ("grad", "param", "update") for part in parts]


def _parts(params: Any) -> list[str]:
    names = []
    for path, leaf in jax.tree.flatten_with_path(params)[0]:
        name = path_name(path)
        layers = range(leaf.shape[0]) if is_stacked(name) else None
        names += [name] if layers is None else [f"{name}/{layer}" for layer in layers]
    return names


def _own_axes(path: Any, leaf: Array) -> tuple[int, ...]:
    return tuple(range(1 if is_stacked(path_name(path)) else 0, leaf.ndim))

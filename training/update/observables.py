"""Observables: pure functions of an update that are computed inside the compiled step.

Each returns arrays by name: numbers, or vectors such as histograms or values per layer. An
observable is computed only in the updates in which it is due.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from common.batch import Batch
from common.trees import is_stacked, named_leaves
from optim.freezing import with_zeros

Number = float | int | list[float]
"""A logged value: a number, or a vector."""


class Update(NamedTuple):
    """One update, the argument of an observable. `grads` and `updates` hold no array for a frozen
    parameter (optim/freezing.py)."""

    grads: PyTree
    """Means over the batch."""
    params: PyTree
    """Before the update."""
    updates: PyTree
    """The change of the parameters."""
    opt_state: PyTree
    """After the update."""
    step: Int[Array, ""]
    """Finished updates before this one."""
    loss: Array
    """The objective, a mean over the batch."""
    metrics: Mapping[str, Array]
    """The metrics of the loss and of further players: means over the batch."""
    recompute: "Recompute | None" = None
    """Further passes over the same batch."""


@dataclass(frozen=True)
class Recompute:
    """Gradients of the batch of an update, and functions that compute more of them. All but
    `parts_at` return means over the batch."""

    parts: PyTree
    """Gradients of this device's micro-batches, stacked; None unless an observable wants them."""
    losses: Array | None
    """Their losses."""
    count: int
    """Number of micro-batches, over all devices."""
    size: int
    """Examples in a micro-batch."""
    trained: PyTree
    """The trained parameters, before the update."""
    parts_at: Callable[[PyTree], tuple[PyTree, Array]]
    """Trained parameters → gradients and losses of this device's micro-batches."""
    gradient_at: Callable[[PyTree], PyTree]
    """Trained parameters → gradient."""
    mean_over_rows: Callable[[Callable[[Batch], PyTree]], PyTree]
    """(function of a micro-batch that returns a tree of means) → their means over the batch."""
    mean: Callable[[PyTree], PyTree]
    """Values of this device → their means over the devices."""
    key: Key[Array, ""]
    """The random key of the update."""


@dataclass(frozen=True)
class Observable:
    """A function `compute` that is computed in every `every`th update; 0 = never."""

    every: int
    compute: Callable[[Update], Mapping[str, Array]]
    """Update → numbers or vectors by name, with the same names and shapes in each update."""
    wants_parts: bool = False
    """True if it reads the gradients of the micro-batches, which take memory."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "is_due"],
    meta_fields=["names", "lengths"],
)
@dataclass(frozen=True)
class Observed:
    """The values of one observable, in one array: it leaves the device faster than many."""

    values: Any  # float32 [n]; jax also stores shapes and shardings here
    is_due: Any  # bool []
    names: tuple[str, ...]
    lengths: tuple[int | None, ...]
    """Length of each name's vector; None for a number."""


def observe(table: Sequence[Observable], update: Update) -> tuple[Observed, ...]:
    """The values of all observables; to be called inside the compiled step."""
    return tuple(_observe(observable, update) for observable in table if observable.every)


def _observe(observable: Observable, update: Update) -> Observed:
    shapes = jax.eval_shape(lambda: observable.compute(update))
    names = tuple(shapes)
    lengths = tuple(int(shapes[n].size) if shapes[n].ndim else None for n in names)

    def compute() -> Array:
        values = observable.compute(update)
        return jnp.concatenate([jnp.ravel(values[name]).astype(jnp.float32) for name in names])

    zeros = jnp.zeros(sum(1 if length is None else length for length in lengths), jnp.float32)
    is_due = (update.step + 1) % observable.every == 0
    return Observed(jax.lax.cond(is_due, compute, lambda: zeros), is_due, names, lengths)


def unpack(observed: Sequence[Observed]) -> dict[str, Number]:
    """The values that were due, by name: numbers, and vectors as lists."""
    row: dict[str, Number] = {}
    for observation in observed:
        if not np.asarray(observation.is_due).all():
            continue
        values, start = np.asarray(observation.values), 0
        for name, length in zip(observation.names, observation.lengths, strict=True):
            part = values[start : start + (1 if length is None else length)]
            row[name] = float(part[0]) if length is None else part.tolist()
            start += len(part)
    return row


def whole_norm(tree: PyTree) -> Array:
    """L2 norm of all leaves together, in float32."""
    squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def tensor_norms(update: Update) -> Mapping[str, Array]:
    """L2 norms of gradient, weights and update of every tensor, and of every layer of a stack, such
    as norm/grad/decoder/run0/mlp/up/kernel/0; 0 for gradient and update of a frozen tensor.
    ratio/update is the norm of the whole update over the norm of all weights."""
    trees = {
        "grad": with_zeros(update.grads, update.params),
        "param": update.params,
        "update": with_zeros(update.updates, update.params),
    }
    norms = {
        f"norm/{kind}/{name}": norm
        for kind, tree in trees.items()
        for name, norm in _norms(tree).items()
    }
    whole = {
        kind: jnp.sqrt(sum(jnp.square(v) for k, v in norms.items() if k.startswith(f"norm/{kind}")))
        for kind in ("param", "update")
    }
    return {**norms, "ratio/update": whole["update"] / jnp.maximum(whole["param"], 1e-30)}


def _norms(tree: PyTree) -> dict[str, Array]:
    norm_of: dict[str, Array] = {}
    for name, leaf in named_leaves(tree):
        axes = tuple(range(1 if is_stacked(name) else 0, leaf.ndim))
        norm = jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes))
        layers = {f"{name}/{layer}": norm[layer] for layer in range(len(norm))} if norm.ndim else {}
        norm_of |= layers or {name: norm}
    return norm_of

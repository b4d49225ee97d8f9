"""Observables: a table of pure functions of an update, computed inside the step.

Each returns named arrays: numbers, or vectors such as histograms or a value per layer. An
observable that is not due in an update is not computed, on any device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from optim.freezing import with_zeros
from trees import is_stacked, named_leaves

OBSERVED = "observed"
"""Key of all values among the metrics of a step, until `unpack` names them."""
Number = float | list[float]


class Update(NamedTuple):
    """One update, as an observable sees it. Frozen parameters have no array in `grads` and
    `updates` (optim/freezing.py)."""

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
    metrics: Mapping[str, Array]
    """Means over the batch that the loss gave."""
    again: "Again | None" = None
    """What may be computed once more of the same batch."""


@dataclass(frozen=True)
class Again:
    """The batch of an update, and functions of it; all but `parts_at` give means over the batch."""

    parts: PyTree
    """Gradients of this device's micro-batches, stacked; None unless an observable wants them."""
    losses: Array | None
    """Their losses."""
    count: int
    """How many there are over all devices."""
    size: int
    """Examples of each."""
    trained: PyTree
    """The trained parameters, before the update."""
    parts_at: Callable[[PyTree], tuple[PyTree, Array]]
    """Trained parameters → gradients and losses of this device's micro-batches."""
    gradient_at: Callable[[PyTree], PyTree]
    """Trained parameters → gradient."""
    over_rows: Callable[[Callable[[Any], Any]], Any]
    """A function of the rows of a micro-batch that gives a tree of means → their means."""
    mean: Callable[[PyTree], PyTree]
    """Values of a device → their means over the devices."""
    key: Key[Array, ""]
    """Of the update."""


@dataclass(frozen=True)
class Observable:
    """A function that is computed in every `every`th update; 0 = never."""

    every: int
    look: Callable[[Update], Mapping[str, Array]]
    """Names → numbers or vectors, the same names and shapes at each update."""
    wants_parts: bool = False
    """Whether it reads the gradients of micro-batches, which take memory."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "is_due"],
    meta_fields=["names", "lengths"],
)
@dataclass(frozen=True)
class Observed:
    """The values of one observable in one array, which is quicker to hand over than many."""

    values: Any  # float32 [n]; jax puts shapes and the like into the same places
    is_due: Any  # bool []
    names: tuple[str, ...]
    lengths: tuple[int | None, ...]
    """Of each name's vector; None: a number."""


def observe(table: Sequence[Observable], update: Update) -> tuple[Observed, ...]:
    """The values of all observables, for use inside of a compiled step."""
    return tuple(_observe(one, update) for one in table if one.every)


def _observe(one: Observable, update: Update) -> Observed:
    shapes = jax.eval_shape(lambda: one.look(update))
    names = tuple(shapes)
    lengths = tuple(int(shapes[n].size) if shapes[n].ndim else None for n in names)

    def compute() -> Array:
        found = one.look(update)
        return jnp.concatenate([jnp.ravel(found[name]).astype(jnp.float32) for name in names])

    zeros = jnp.zeros(sum(1 if length is None else length for length in lengths), jnp.float32)
    is_due = (update.step + 1) % one.every == 0
    return Observed(jax.lax.cond(is_due, compute, lambda: zeros), is_due, names, lengths)


def unpack(observed: Sequence[Observed]) -> dict[str, Number]:
    """The values that were due, by name: numbers, and vectors as lists."""
    row: dict[str, Number] = {}
    for one in observed:
        if not np.asarray(one.is_due).all():
            continue
        values, start = np.asarray(one.values), 0
        for name, length in zip(one.names, one.lengths, strict=True):
            part = values[start : start + (1 if length is None else length)]
            row[name] = float(part[0]) if length is None else part.tolist()
            start += len(part)
    return row


def whole_norm(tree: PyTree) -> Array:
    """L2 norm of all leaves together, in float32."""
    squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def tensor_norms(update: Update) -> Mapping[str, Array]:
    """Norms of gradient, weights and update of every tensor, of a stack by layer, such as
    norm/grad/decoder/run0/mlp/up/kernel/0. Gradient and update of a frozen one have norm 0.
    ratio/update is the norm of the whole update divided by the norm of the weights."""
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
    found: dict[str, Array] = {}
    for name, leaf in named_leaves(tree):
        axes = tuple(range(1 if is_stacked(name) else 0, leaf.ndim))
        norm = jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes))
        layers = {f"{name}/{layer}": norm[layer] for layer in range(len(norm))} if norm.ndim else {}
        found |= layers or {name: norm}
    return found

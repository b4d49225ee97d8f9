"""--init_from: weights of another run, fitted to this model.

Arrays must have the same shapes. Only the tables of a vocabulary or of positions may have another
length: common rows are kept, and further rows are a fresh model's.
"""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from common.trees import named_leaves
from training.saved.digests import describe

TABLES: tuple[tuple[str, int], ...] = (
    (r"_embedding/(tokens|positions)$", 0),
    (r"^head/kernel$", 1),
    (r"^logits_bias$", 0),
)
"""Path of a table → its axis of rows."""
POSITIONS = "image_embedding/positions"
NAMED = 4  # paths named at most


def fit_params(
    loaded: PyTree,
    fresh: PyTree,
    moved_rows: Mapping[str, tuple[int, int]],
    fetch: Callable[[Array], np.ndarray] = np.asarray,
) -> tuple[PyTree, list[str]]:
    """(`loaded` in the shapes and dtypes of `fresh`, a line about each table of another length).

    `moved_rows` are rows of tables that changed their number: path → (old, new). `fetch` returns an
    array of `fresh` as numpy.

    Raises:
        ValueError: arrays do not fit; the message names them.
    """
    have = dict(named_leaves(loaded))
    want = named_leaves(fresh)
    names = [name for name, _ in want]
    _refuse("are not in these weights", [name for name in names if name not in have])
    _refuse("have no place in this model", [name for name in have if name not in names])
    lines: list[str] = []
    fitted = [
        _fit(name, have[name], leaf, moved_rows.get(name), fetch, lines) for name, leaf in want
    ]
    return jax.tree.unflatten(jax.tree.structure(fresh), fitted), lines


def resize_grid(
    params: PyTree, before: tuple[int, int], after: tuple[int, int], first: int
) -> tuple[PyTree, list[str]]:
    """(`params` with the learnt vectors of image positions interpolated from a grid of `before`
    rows and columns to one of `after`, a line about it); `params` if the grids are equal or the
    positions are not learnt. `first` rows of the table come before those of the grid."""
    leaves = flatten_dict(params, sep="/")
    if before == after or POSITIONS not in leaves:
        return params, []
    table = np.asarray(leaves[POSITIONS])
    grid = table[first:].reshape(*before, -1)
    size = (*after, grid.shape[-1])
    resized = jax.image.resize(grid, size, "linear", antialias=False).reshape(-1, size[-1])
    leaves[POSITIONS] = np.concatenate([table[:first], np.asarray(resized, table.dtype)])
    sizes = [" × ".join(map(str, shape)) for shape in (before, after)]
    line = f"{POSITIONS}: the grid of {sizes[0]} image tokens is interpolated to {sizes[1]}"
    return unflatten_dict(leaves, sep="/"), [line]


def _refuse(problem: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ValueError(f"init_from does not fit: {', '.join(names[:NAMED])}{more} {problem}")


def _fit(
    name: str,
    old: PyTree,
    new: PyTree,
    moved: tuple[int, int] | None,
    fetch: Callable[[Array], np.ndarray],
    lines: list[str],
) -> np.ndarray:
    if old.shape == new.shape and moved is None:
        return np.asarray(old, jnp.dtype(new.dtype))
    axis = next((axis for table, axis in TABLES if re.search(table, name)), None)
    others = [
        shape[:axis] + shape[axis + 1 :] for shape in (old.shape, new.shape) if axis is not None
    ]
    if axis is None or others[0] != others[1]:
        raise ValueError(
            f"init_from does not fit: {name} is {describe(old)} there and {describe(new)} here"
        )
    before, after = np.moveaxis(np.asarray(old), axis, 0), np.moveaxis(fetch(new), axis, 0).copy()
    both = min(len(before), len(after))
    after[:both] = before[:both]
    if moved is not None:
        if moved[0] < both:  # another token's now
            after[moved[0]] = np.moveaxis(fetch(new), axis, 0)[moved[0]]
        after[moved[1]] = before[moved[0]]
    if len(before) != len(after):
        begun = f", {len(after) - both} are new" if len(after) > both else ""
        lines.append(f"{name} has {len(after)} rows instead of {len(before)}: {both} kept{begun}")
    return np.moveaxis(after, 0, axis)

"""Another program's layout as a plan: which of its arrays make up each of ours, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weights.arrays import Arrays, Shapes, check_arrays, check_numbers


@dataclass(frozen=True)
class Leaf:
    """Where one of our arrays stands in another layout."""

    keys: tuple[str, ...]
    """One key; or, if `by_layer`, one for each layer of a run."""
    shape: tuple[int, ...]
    """Of the array at each of these keys."""
    by_layer: bool = False
    """Each layer has an array of its own there; ours has a first axis over them."""
    to_ours: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_theirs: Callable[[np.ndarray], np.ndarray] = lambda array: array


Plan = dict[str, Leaf]
"""By our path, such as encoder/run0/attention/q/kernel."""


def their_shapes(plan: Plan) -> Shapes:
    """The shapes of their arrays by key. Raises ValueError for a key that two of ours claim."""
    found: Shapes = {}
    for name, leaf in plan.items():
        for key in leaf.keys:
            if key in found:
                raise ValueError(f"{key} would be {name} and another array of ours as well")
            found[key] = leaf.shape
    return found


def gather(path: Path, arrays: Arrays, plan: Plan, dtype: Any) -> Arrays:
    """Our arrays in `dtype`, by path. Takes them out of `arrays`, so that few are held twice.

    Raises:
        ValueError: the arrays, those of a file at `path`, are not the plan's.
    """
    check_arrays(path, arrays, their_shapes(plan))
    found = {}
    for name, leaf in plan.items():
        parts = [leaf.to_ours(arrays.pop(key)).astype(dtype, copy=False) for key in leaf.keys]
        whole = np.stack(parts) if leaf.by_layer else parts[0]
        found[name] = np.asarray(whole, order="C")  # safetensors would write others transposed
        check_numbers(path, {name if leaf.by_layer else leaf.keys[0]: found[name]})
    return found


def scatter(plan: Plan, arrays: Mapping[str, Any]) -> Arrays:
    """Their arrays by key, of ours by path."""
    found = {}
    for name, leaf in plan.items():
        whole = np.asarray(arrays[name])
        parts = list(whole) if leaf.by_layer else [whole]
        for key, part in zip(leaf.keys, parts, strict=True):
            found[key] = np.asarray(leaf.to_theirs(part), order="C")
    return found

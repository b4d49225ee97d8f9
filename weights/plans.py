"""Plans: tables that map the arrays of another program's file to Pastel's parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike

from weights.arrays import Arrays, Shapes, check_arrays, check_numbers

TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
"""Pastel's name of an array of a dense layer or a norm → torch's."""


@dataclass(frozen=True)
class Leaf:
    """The place of one of Pastel's arrays in another program's file."""

    keys: tuple[str, ...]
    """One key; or, if `by_layer`, one for each layer of a run."""
    shape: tuple[int, ...]
    """Shape of the array at each of these keys."""
    by_layer: bool = False
    """True if each layer has its own array in the file; Pastel's is stacked."""
    to_pastel: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_file: Callable[[np.ndarray], np.ndarray] = lambda array: array


Plan = dict[str, Leaf]
"""Leaves by Pastel's path, such as encoder/run0/attention/q/kernel."""


def file_shapes(plan: Plan) -> Shapes:
    """The shapes of the file's arrays, by key. Raises ValueError if two of Pastel's arrays have the
    same key."""
    shapes: Shapes = {}
    for name, leaf in plan.items():
        for key in leaf.keys:
            if key in shapes:
                raise ValueError(f"{key} would be {name} and another array of ours as well")
            shapes[key] = leaf.shape
    return shapes


def gather(path: Path, arrays: Arrays, plan: Plan, dtype: DTypeLike) -> Arrays:
    """Pastel's arrays in `dtype`, by path. They are removed from `arrays`, so that few are in
    memory twice.

    Raises:
        ValueError: the arrays of the file at `path` do not fit the plan.
    """
    check_arrays(path, arrays, file_shapes(plan))
    arrays_of = {}
    for name, leaf in plan.items():
        parts = [leaf.to_pastel(arrays.pop(key)).astype(dtype, copy=False) for key in leaf.keys]
        whole = np.stack(parts) if leaf.by_layer else parts[0]
        arrays_of[name] = np.asarray(whole, order="C")  # safetensors would write others transposed
        check_numbers(path, {name if leaf.by_layer else leaf.keys[0]: arrays_of[name]})
    return arrays_of


def scatter(plan: Plan, arrays: Mapping[str, object]) -> Arrays:
    """The file's arrays by key, from Pastel's arrays by path."""
    stored = {}
    for name, leaf in plan.items():
        whole = np.asarray(arrays[name])
        parts = list(whole) if leaf.by_layer else [whole]
        for key, part in zip(leaf.keys, parts, strict=True):
            stored[key] = np.asarray(leaf.to_file(part), order="C")
    return stored

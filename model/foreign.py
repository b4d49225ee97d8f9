"""What the layouts of other programs have in common: their settings, and which of their arrays
make up each of ours."""

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from model.config import ModelConfig
from model.msgpack import read_msgpack

MAX_SIZE, MAX_DEPTH = 1 << 24, 1 << 10
"""Beyond these a number in a configuration is damage: no model is that wide or deep."""
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
Arrays = dict[str, np.ndarray]


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


def read_fields(values: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Settings of another program by our names. `fields`: their name → ours and their default.

    Raises:
        ValueError: one is of another type than its default, or too large.
    """
    found = {}
    for theirs, (ours, default) in fields.items():
        value, kind = values.get(theirs, default), type(default)
        value = float(value) if kind is float and type(value) is int else value
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise ValueError(f"{theirs} must be {WORDS[kind]}, not {value!r:.60}")
        most = MAX_DEPTH if ours.endswith("_depth") else MAX_SIZE
        least = min(default, 0) if kind is int else 0
        if kind is int and not least <= value <= most:
            raise ValueError(f"{theirs} must lie in {least}..{most}, not {value}")
        found[ours] = value
    return found


def check_words(
    config: ModelConfig,
    program: str,
    allowed: Mapping[str, Collection[Any]],
    free: Collection[str],
) -> None:
    """Raise ValueError for a setting that `program` has no word for: one with a value that is not
    `allowed`. Those in neither `allowed` nor `free` must have their defaults."""
    for field in dataclasses.fields(ModelConfig):
        value, known = getattr(config, field.name), allowed.get(field.name, [field.default])
        if field.name not in free and value not in known:
            raise ValueError(
                f"model.{field.name} {value}: {program} has no word for it, it knows only "
                f"{' and '.join(str(one) for one in known)}"
            )


def square_grid(image_length: int) -> dict[str, Any]:
    """Rows and columns of a picture of so many tokens: a square, else one row."""
    side = math.isqrt(image_length)
    if side * side == image_length:
        return {"grid_size": side, "grid_rows": 0}
    return {"grid_size": image_length, "grid_rows": 1}


def same_or_zero(decoder: int, encoder: int) -> int:
    """A decoder's size as our fields have it: 0 where it is the encoder's."""
    return 0 if decoder == encoder else decoder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def read_arrays(folder: Path, name: str) -> tuple[Path, Arrays]:
    """The arrays of a weights file `name`, or of the parts that its index names; and which file
    to name when they do not fit.

    Raises:
        ValueError: a file is missing, damaged, or no such file; none of it is ever executed.
    """
    read = _read_flax if name.endswith(".msgpack") else _read_safetensors
    path, index = folder / name, folder / f"{name}.index.json"
    if path.is_file() or not index.is_file():
        return path, read(path)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(_is_file_name(v) for v in places.values()):
        raise ValueError(f"{index} has no weight_map from keys to files beside it")
    arrays: Arrays = {}
    for part in sorted(set(places.values())):
        for key, array in read(folder / part).items():
            if places.get(key) != part:
                raise ValueError(f"{folder / part} holds {key}, which {index.name} does not say")
            arrays[key] = array
    return index, arrays


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value


def _read_flax(path: Path) -> Arrays:
    return flatten_dict(read_msgpack(path), sep="/")


def _read_safetensors(path: Path) -> Arrays:
    try:
        return load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def check_arrays(path: Path, arrays: Arrays, plan: Plan) -> None:
    """Raise ValueError unless `arrays` are those of `plan`, naming one that is not by their key."""
    wanted = {key: leaf.shape for leaf in plan.values() for key in leaf.keys}
    found = {key: array.shape for key, array in arrays.items()}
    odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if odd:
        raise ValueError(
            f"{path} does not fit its configuration: {len(odd)} of {len(wanted)} arrays differ, "
            f"first {odd[0]}: {found.get(odd[0])} instead of {wanted.get(odd[0])}"
        )
    for key, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path} has {key} as {array.dtype}; weights are floating point")


def gather(plan: Plan, arrays: Arrays, dtype: Any) -> Arrays:
    """Our arrays in `dtype`, by path. Takes them out of `arrays`, so that few are held twice."""
    found = {}
    for name, leaf in plan.items():
        parts = [leaf.to_ours(arrays.pop(key)).astype(dtype, copy=False) for key in leaf.keys]
        whole = np.stack(parts) if leaf.by_layer else parts[0]
        found[name] = np.ascontiguousarray(whole)  # safetensors would write others transposed
    return found


def scatter(plan: Plan, arrays: Mapping[str, Any]) -> Arrays:
    """Their arrays by key, of ours by path."""
    found = {}
    for name, leaf in plan.items():
        whole = np.asarray(arrays[name])
        parts = list(whole) if leaf.by_layer else [whole]
        for key, part in zip(leaf.keys, parts, strict=True):
            found[key] = np.ascontiguousarray(leaf.to_theirs(part))
    return found

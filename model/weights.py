"""Parameters as one safetensors file: "encoder/layers/scale" and the like → array."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

Dtype = Literal["float32", "float16"]


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` if nothing fails."""
    beside = path.with_name(f".{path.name}.new")
    try:
        yield beside
        beside.chmod(0o644)  # safetensors lets nobody else read it
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_weights(path: Path, params: Mapping[str, Any], dtype: Dtype) -> None:
    """Write the file, whole or not at all. Computing stays in float32 whatever is stored."""
    leaves = flatten_dict(params, sep="/").items()
    # safetensors writes the bytes as they lie, so a transposed array would come back wrong.
    flat = {name: np.asarray(np.asarray(leaf), dtype, order="C") for name, leaf in leaves}
    with new_file(path) as beside:
        save_file(flat, beside)


def read_weights(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as float32, nested as in `like`, which may hold shapes alone.

    Raises:
        ValueError: the file is missing or damaged, or its arrays are not those of `like`.
    """
    try:
        flat = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten_dict(like, sep="/").items()}
    found = {name: array.shape for name, array in flat.items()}
    odd = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if odd:
        raise ValueError(
            f"{path} does not fit its configuration: {len(odd)} of {len(wanted)} arrays differ, "
            f"first {odd[0]}: {found.get(odd[0])} instead of {wanted.get(odd[0])}"
        )
    flat = {name: array.astype(np.float32, copy=False) for name, array in flat.items()}
    return unflatten_dict(flat, sep="/")

"""Reads and writes files of arrays: safetensors, flax's msgpack, several files with an index."""

import errno
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from common.files import new_file
from common.json_files import read_json, without_repeats
from weights.msgpack import read_msgpack

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
Dtype = Literal["float32", "float16"]
MOST_HEADER = 16 << 20
_PICKLES = (b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
KINDS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def write_weights(path: Path, params: Mapping[str, object], dtype: Dtype) -> None:
    """Write nested parameters as one safetensors file, with keys such as "encoder/norm/scale".
    Computation is in float32 whatever is stored."""
    write_arrays(path, flatten_dict(params, sep="/"), dtype)


def write_arrays(
    path: Path,
    arrays: Mapping[str, object],
    dtype: DTypeLike | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a safetensors file, atomically, as `dtype` if it is given. Raises ValueError as
    `stored_as` does."""
    flat = {key: stored_as(key, np.asarray(array), dtype) for key, array in arrays.items()}
    with new_file(path) as beside:
        try:
            save_file(flat, beside, metadata)
        except SafetensorError as error:  # also a full disk, as "… (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error), str(path)) from None


def stored_as(key: str, array: np.ndarray, dtype: DTypeLike | None) -> np.ndarray:
    """The array as it is written. It is contiguous: safetensors stores the bytes in memory order,
    so a transposed array would come back wrong.

    Raises:
        ValueError: the array holds NaN, or a number that is infinite in the narrower `dtype`.
    """
    with np.errstate(over="ignore"):
        stored = np.asarray(array, dtype, order="C")
    if jnp.issubdtype(stored.dtype, jnp.floating) and not np.isfinite(stored).all():
        raise ValueError(
            f"{key} holds NaN, or numbers too large for {stored.dtype}; nobody could read these "
            f"weights: store them with --dtype=float32 if they are finite"
        )
    return stored


def read_weights(path: Path, like: Mapping[str, object]) -> dict[str, Any]:
    """The parameters as float32, nested as in `like`, which may hold only shapes.

    Raises:
        ValueError: the file is missing or damaged, or its arrays do not fit `like`.
    """
    arrays = _read_safetensors(path)
    check_arrays(path, arrays, shapes_of(like))
    with np.errstate(
        over="ignore"
    ):  # float64 beyond float32's range becomes infinite; refused below
        flat = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    check_numbers(path, flat)
    return unflatten_dict(flat, sep="/")


def shapes_of(params: Mapping[str, object]) -> Shapes:
    """Shapes of nested parameters by path, such as encoder/run0/attention/q/kernel."""
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(params, sep="/").items()}


def check_arrays(path: Path, arrays: Arrays, wanted: Shapes) -> None:
    """Raise ValueError unless these are the `wanted` arrays; the message names the first other
    one."""
    shapes = {key: array.shape for key, array in arrays.items()}
    odd = sorted(k for k in wanted.keys() | shapes.keys() if wanted.get(k) != shapes.get(k))
    if odd:
        raise ValueError(
            f"{path} does not fit its configuration: {len(odd)} of {len(wanted)} arrays differ, "
            f"first {odd[0]}: {shapes.get(odd[0])} instead of {wanted.get(odd[0])}"
        )
    for key, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path} has {key} as {array.dtype}; weights are floating point")


def read_arrays(folder: Path, name: str) -> tuple[Path, Arrays]:
    """The arrays of a weights file `name`, or of the parts in its index; and the file that a
    message about them should name.

    Raises:
        ValueError: a file is missing, damaged, or not a weights file. Nothing in it is executed.
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


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value


def _read_flax(path: Path) -> Arrays:
    return flatten_dict(read_msgpack(path), sep="/")


def _read_safetensors(path: Path) -> Arrays:
    try:
        _check_header(path)
        return load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def check_no_text(head: bytes) -> None:
    """Raise ValueError if a file of weights begins as what people save in their place."""
    head = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a pointer of git-lfs, not the file; run `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise ValueError("it is a web page, not weights; download it again")


def _check_header(path: Path) -> None:
    """Raise ValueError for arrays of an unsupported type, before any is read."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        head = file.read(64)
        check_no_text(head)
        file.seek(0)
        size = int.from_bytes(file.read(8), "little")
        header = _header(file.read(size)) if size <= MOST_HEADER else None
        has = file.seek(0, io.SEEK_END)
    if not has:
        raise ValueError("it is empty; download or copy it again")
    if size > MOST_HEADER and head.startswith(_PICKLES):
        raise ValueError("it is a torch file, whatever its name; save its arrays as safetensors")
    if not isinstance(header, dict):
        raise ValueError(f"it has no header of at most {MOST_HEADER:,} bytes")
    for key, about in header.items():
        if key == "__metadata__":
            continue
        dtype = about.get("dtype") if isinstance(about, dict) else None
        if dtype not in KINDS:
            raise ValueError(
                f"{key:.200} is {dtype!r:.20}, and only {', '.join(KINDS)} are read; of weights in "
                "eighths and quarters save the float16 or bfloat16 ones"
            )
    needs = 8 + size + max((_end(about) for about in header.values()), default=0)
    if has != needs:
        raise ValueError(f"it has {has:,} of {needs:,} bytes; download or copy it again")


def _header(text: bytes) -> Any:
    """The parsed header. Raises ValueError if it is cut short, or has an array twice."""
    return json.loads(text, object_pairs_hook=without_repeats) if text.strip(b"\0") else None


def _end(about: Any) -> int:
    """The last byte of an array, from its part of the header; 0 if it says none."""
    offsets = about.get("data_offsets")
    is_pair = isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int)
    return offsets[1] if is_pair else 0


def check_numbers(path: Path, arrays: Mapping[str, Any]) -> None:
    """Raise ValueError for the first array that holds NaN or infinity: a picture drawn with it
    would be wrong. Sums are checked first, because they cost one pass."""
    for key, array in arrays.items():
        with np.errstate(over="ignore", invalid="ignore"):  # finite numbers may have no finite sum
            if array.dtype == np.float32 and np.isfinite(array.sum()):
                continue
        if not np.isfinite(array).all():
            raise ValueError(f"{path} holds NaN or infinity in {key}; these weights are spoilt")

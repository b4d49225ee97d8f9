"""Reads and writes flax's flax_model.msgpack, nested maps of arrays, as a stream.

Flax itself keeps the whole file in memory beside its arrays, and names no damaged key. The format:
a leaf is the extension 1, which holds (shape, name of the dtype, bytes). An array over 2^30 bytes
is a map of its shape and of flat pieces, both as maps from "0", "1", ….
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import msgpack
import numpy as np

from common.files import new_file
from common.json_files import without_repeats

ARRAY, SCALAR = 1, 3
PIECE_BYTES = 2**30
PIECES = "__msgpack_chunked_array__"
DEEPEST, MOST_KEYS = 64, 1_000_000
DTYPES = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (*"?bBhHiIlLefd", jnp.bfloat16)  # numpy's letters, booleans to float64
}


def read_msgpack(path: str | Path) -> dict[str, Any]:
    """The nested maps of a file, in its order, with NumPy arrays in their leaves.

    Raises:
        ValueError: the file is missing, damaged or holds anything but arrays.
    """
    try:
        with Path(path).open("rb") as file:
            tree = _unpack(file)
        if not isinstance(tree, dict):
            raise ValueError("it holds no map of arrays")
        return _read_map(tree, ())
    except (OSError, ValueError, msgpack.UnpackException) as error:
        reason = " ".join(str(error).split()) or "it ends too early"
        raise ValueError(f"{path} cannot be read: {reason}") from None


def _unpack(file: IO[bytes]) -> Any:
    size = file.seek(0, 2)
    file.seek(0)
    # Such files hold no lists; a forged one could ask for memory without having the bytes.
    unpacker = msgpack.Unpacker(
        file,
        max_buffer_size=max(size, 1),
        max_array_len=0,
        max_map_len=MOST_KEYS,
        object_pairs_hook=without_repeats,
    )
    tree = unpacker.unpack()
    if unpacker.tell() != size:
        raise ValueError(f"{size - unpacker.tell()} bytes follow its end")
    return tree


def _read_map(mapping: dict[Any, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if len(path) > DEEPEST:
        raise ValueError(f"{'/'.join(path[:3])}/… is nested more than {DEEPEST} deep")
    for key in mapping:
        if not isinstance(key, str):
            raise ValueError(f"{'/'.join(path)} has the key {key!r:.60}, which is not text")
        mapping[key] = _read_value(mapping[key], (*path, key))  # in place: bytes go as arrays come
    return mapping


def _read_value(value: object, path: tuple[str, ...]) -> Any:
    if isinstance(value, msgpack.ExtType) and value.code in (ARRAY, SCALAR):
        return _read_array(value.data, "/".join(path))
    if isinstance(value, dict):
        return _join(value, path) if PIECES in value else _read_map(value, path)
    raise ValueError(f"{'/'.join(path)} is not an array but {type(value).__name__}")


def _read_array(data: bytes, name: str) -> np.ndarray:
    try:
        shape, dtype_name, buffer = msgpack.unpackb(data, max_array_len=DEEPEST // 2, max_map_len=0)
        dtype = DTYPES[dtype_name]
        fits = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not (fits and len(shape) <= DEEPEST // 2 and isinstance(buffer, bytes)):
            raise ValueError("its shape is none")
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        raise ValueError(f"{name} is not an array of numbers") from None
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"{name} of shape {tuple(shape)} and {dtype_name} has {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype).reshape(shape)


def _join(value: dict[Any, Any], path: tuple[str, ...]) -> np.ndarray:
    name = "/".join(path)
    try:
        shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
        stored = [value["chunks"].pop(str(i)) for i in range(len(value["chunks"]))]
        pieces = [_read_array(piece.data, name) for piece in stored]
        return np.concatenate(pieces).reshape(shape)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"the pieces of {name} do not make an array") from None


def write_msgpack(path: str | Path, tree: Mapping[str, object]) -> None:
    """Write nested maps of arrays in their order, whole or not at all. The bytes equal flax's."""
    with new_file(Path(path)) as beside, beside.open("wb") as file:
        for part in _packed(tree, msgpack.Packer(strict_types=True)):
            file.write(part)


def _packed(value: object, packer: msgpack.Packer) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        yield packer.pack_map_header(len(value))
        for key, inner in value.items():
            yield packer.pack(key)
            yield from _packed(inner, packer)
        return
    array = np.asarray(value)
    if array.nbytes > PIECE_BYTES:
        yield from _packed_pieces(array, packer)
        return
    inside = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
    yield packer.pack_ext_type(ARRAY, inside)


def _packed_pieces(array: np.ndarray, packer: msgpack.Packer) -> Iterator[bytes]:
    size = max(1, PIECE_BYTES // array.dtype.itemsize)
    flat = array.reshape(-1)
    yield packer.pack_map_header(3)
    yield packer.pack(PIECES) + packer.pack(True)
    yield packer.pack("shape")
    yield packer.pack({str(i): n for i, n in enumerate(array.shape)})
    yield packer.pack("chunks")
    yield from _packed(
        {str(i): flat[i * size : (i + 1) * size] for i in range(-(-flat.size // size))}, packer
    )

"""Raw little-endian arrays of token records, one file each, memory-mapped."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "i64": "<i8", "f32": "<f4"}
"""Element types, by the ending of the file's name."""


def open_array(folder: Path, name: str, about: dict[str, Any]) -> np.ndarray:
    """A memory-mapped array of the type and shape in `about`. Raises ValueError if the file has
    another size."""
    kind, shape = about["arrays"][name]["type"], tuple(about["arrays"][name]["shape"])
    path, dtype = folder / f"{name}.{kind}", np.dtype(DTYPES[kind])
    expected = math.prod(shape) * dtype.itemsize
    found = path.stat().st_size if path.is_file() else 0
    if found != expected:
        raise ValueError(f"{path} has {found:,} bytes, not {expected:,}; make the records anew")
    if not expected:
        return np.zeros(shape, dtype)
    # A plain array view: np.memmap's own indexing is several times slower.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape))


def write_arrays(
    folder: Path, arrays: dict[str, np.ndarray], kinds: dict[str, str], split_names: list[str]
) -> dict[str, Any]:
    """Write each array into a file of its own. Returns one digest of all files, and one of each."""
    hashed = hashlib.blake2b("\n".join(split_names).encode(), digest_size=8)
    digests = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array, DTYPES[kinds[name]])
        array.tofile(folder / f"{name}.{kinds[name]}")
        hashed.update(f"{name}{array.shape}".encode())
        hashed.update(array)
        digests[name] = hashlib.blake2b(array, digest_size=8).hexdigest()
    return {"digest": hashed.hexdigest(), "digests": digests}

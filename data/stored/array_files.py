"""The array files of token records: raw little-endian numbers, memory-mapped."""

import hashlib
import math
import mmap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.json_files import Json

DTYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "i64": "<i8", "f32": "<f4"}
"""Element types, by the ending of the file's name."""
_CHUNK = 1 << 22  # bytes hashed at a time
READ_AHEAD = 1 << 24
"""Size in bytes up to which the system may read ahead in an array. It reads up to 4 MB at each
access, so a few rows would read all of a large array."""


def open_array(folder: Path, name: str, about: Json) -> np.ndarray:
    """A memory-mapped array of the type and shape in `about`. Raises ValueError if the file has
    another size."""
    type_name, shape = about["arrays"][name]["type"], tuple(about["arrays"][name]["shape"])
    path, dtype = folder / f"{name}.{type_name}", np.dtype(DTYPES[type_name])
    expected = math.prod(shape) * dtype.itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size != expected:
        raise ValueError(f"{path} has {size:,} bytes, not {expected:,}; make the records again")
    return open_mapped(path, dtype).reshape(shape) if expected else np.zeros(shape, dtype)


def open_mapped(path: Path, dtype: np.dtype | str) -> np.ndarray:
    """A non-empty file as a memory-mapped array, without reading ahead."""
    # A plain array: np.memmap's own indexing is several times slower.
    return np.frombuffer(open_bytes(path), dtype)


def open_bytes(path: Path) -> mmap.mmap:
    """A non-empty file as memory-mapped bytes, without reading ahead."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def read_ahead(array: np.ndarray) -> None:
    """Let the system read ahead in the file of a mapped array."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_NORMAL"):
        base.madvise(mmap.MADV_NORMAL)


class ArrayWriter:
    """Writes an array's file part by part."""

    def __init__(self, folder: Path, name: str, type_name: str) -> None:
        self._file, self._dtype = (folder / f"{name}.{type_name}").open("wb"), DTYPES[type_name]
        self.shape: tuple[int, ...] = ()

    def add(self, rows: np.ndarray) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        before = self.shape[0] if self.shape else 0
        self.shape = (before + len(rows), *rows.shape[1:])

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def digest_arrays(
    folder: Path,
    arrays: Mapping[str, Json],
    split_names: Sequence[str],
    trained_on: Collection[str],
) -> Json:
    """{"digest": a digest of all arrays that training reads, …, and a digest of each array}, from
    their files. `arrays` has types and shapes."""
    hashed = hashlib.blake2b("\n".join(split_names).encode(), digest_size=8)
    digests = {}
    for name, about in arrays.items():
        alone = hashlib.blake2b(digest_size=8)
        both = [alone, hashed] if name in trained_on else [alone]
        if name in trained_on:
            hashed.update(f"{name}{tuple(about['shape'])}".encode())
        with (folder / f"{name}.{about['type']}").open("rb") as file:
            while chunk := file.read(_CHUNK):
                for digest in both:
                    digest.update(chunk)
        digests[name] = alone.hexdigest()
    return {"digest": hashed.hexdigest(), "digests": digests}

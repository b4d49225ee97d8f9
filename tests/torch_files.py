"""Writes torch files without torch: pickles built from instructions, in both layouts."""

import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int32": "IntStorage",
    "int64": "LongStorage",
}


class Hostile:
    """Its pickle would run a command, which makes the file `executed`."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@dataclass(frozen=True)
class Name:
    """A pickled import."""

    module: str
    name: str


@dataclass(frozen=True)
class Called:
    """A pickled call of an import, and the state that is then set on the result."""

    function: Name
    arguments: tuple
    state: Any = None


@dataclass(frozen=True)
class Tensor:
    """A tensor as torch pickles it: a view into a storage."""

    key: str
    kind: str
    count: int
    offset: int
    shape: tuple
    strides: tuple
    view: tuple | None = ()
    """The field after the count in the older layout."""


def tensor(key: str, array: np.ndarray, view: tuple | None = ()) -> Tensor:
    """A tensor that is a whole storage in row-major order."""
    strides = tuple(s // array.itemsize for s in array.strides)
    return Tensor(key, array.dtype.name, array.size, 0, array.shape, strides, view)


def instructions(value: Any) -> bytes:
    """The protocol 2 instructions that build `value` on a pickle's stack."""
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Called):
        state = b"" if value.state is None else instructions(value.state) + b"b"
        return instructions(value.function) + instructions(value.arguments) + b"R" + state
    if isinstance(value, Tensor):
        storage = ("storage", Name("torch", STORAGES[value.kind]), value.key, "cpu", value.count)
        view = () if value.view == () else (value.view,)
        return (
            instructions(Name("torch._utils", "_rebuild_tensor_v2"))
            + b"("
            + instructions((*storage, *view))
            + b"Q"
            + b"".join(instructions(item) for item in (value.offset, value.shape, value.strides))
            + instructions(False)
            + instructions(Called(Name("collections", "OrderedDict"), ()))
            + b"tR"
        )
    if isinstance(value, tuple):
        return b"(" + b"".join(instructions(item) for item in value) + b"t"
    if isinstance(value, dict):
        pairs = (instructions(item) for pair in value.items() for item in pair)
        return b"}(" + b"".join(pairs) + b"u"
    return pickle.dumps(value, protocol=2)[2:-1]  # between its two frames


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + instructions(value) + b"."


def write_zip(path: Path, tree: Any, storages: dict[str, np.ndarray], how: int = 0) -> Path:
    """The layout since torch 1.6; `tree` may be a pickle's bytes."""
    with zipfile.ZipFile(path, "w", compression=how) as archive:
        data = tree if isinstance(tree, bytes) else pickled(tree)
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def write_old(path: Path, tree: Any, storages: dict[str, np.ndarray]) -> Path:
    """The layout before torch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [pickled(tree), pickle.dumps(list(storages), protocol=2)]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def state_dict(arrays: dict[str, np.ndarray], is_old: bool = False) -> tuple[dict, dict]:
    """A state dict with one tensor and one storage per array; and the storages."""
    numbered = {key: str(i) for i, key in enumerate(arrays)}
    view: Any = None if is_old else ()
    tensors = {key: tensor(numbered[key], array, view) for key, array in arrays.items()}
    return tensors, {numbered[key]: array for key, array in arrays.items()}

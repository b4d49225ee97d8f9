"""The tensors of a torch checkpoint (.ckpt, .pt, .bin) without torch. Nothing in it is executed.

Both layouts are read: a zip of one pickle and one member for each storage (torch ≥ 1.6), and the
older row of pickles with the storages after them. Arrays are read-only, memory-mapped views of the
file: unused ones, such as an optimizer's state, are never read.
"""

import math
import mmap
import reprlib
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from weights.arrays import check_no_text
from weights.pickles import Call, Global, read_pickle

STORAGES: dict[str, np.dtype[Any]] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
PASSED_OVER = {
    *("torch.Size", "torch.device", "torch.serialization._get_layout", "_codecs.encode"),
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath"),
    *("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "typing.Any"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy._core.multiarray.scalar", "numpy.float32", "numpy.float64", "numpy.int64"),
    *(f"torch.{kind}{bits}" for kind in ("float", "int") for bits in (16, 32, 64)),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("int", "float", "bool", "str", "bytes", "list", "dict", "tuple", "set")
    ),
}
"""Harmless names that trainers leave in a checkpoint beside its tensors."""
TRAINERS = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
STATE_DICTS = (
    *("state_dict", "params_ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema"),
    *("model", "params"),
)
"""Keys under which trainers store a state dict; the first one counts, averages before the rest."""
_MOST_LEVELS = 3  # of dicts around a state dict
ZIP_MAGIC, BYTES_BEFORE_NAME = b"PK\x03\x04", 30
MOST_AXES = 32
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
Place = Callable[[Any], tuple[int, int]]
"""A storage's key → (offset of its first byte in the file, number of bytes)."""


@dataclass(frozen=True)
class _Storage:
    """The memory behind a tensor, as the pickle describes it; `_view` checks it."""

    dtype: np.dtype
    key: Any
    count: Any
    start: Any = 0
    """Offset of a view into another storage, in elements."""


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint, or the dict under one of STATE_DICTS, as arrays by key.

    Raises:
        ValueError: the file is missing or damaged, or names something that does not belong among
            weights.
    """
    try:
        with Path(path).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        check_no_text(data[:64])
        if data[8:10] == b'{"':
            raise ValueError("it is a safetensors file; name it .safetensors")
        is_zip = data[:4] == ZIP_MAGIC
        tree, place = _open_zip(data, Path(path)) if is_zip else _open_old(data)
        return _views(data, _state_dict(tree), place)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested without end") from None
    except (struct.error, EOFError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read: it is damaged ({type(error).__name__})") from None


def _check(imported: Global) -> None:
    name = str(imported)
    known = name in STORAGES or name in PASSED_OVER or name in (TENSOR, PARAMETER)
    if not known and imported.module.partition(".")[0] not in TRAINERS:
        raise ValueError(f"it would run {name!r:.100}, which has no place among weights")


def _name(value: object) -> str:
    """The text of a name only: the text of anything else may have no end."""
    return str(value) if isinstance(value, Global) else ""


def _storage(identity: Any) -> _Storage:
    usual = isinstance(identity, tuple) and len(identity) >= 5
    kind, dtype, key, _, count, *view = identity if usual else [None] * 5
    if kind != "storage" or _name(dtype) not in STORAGES or not isinstance(key, str):
        raise ValueError(f"it refers to {reprlib.repr(identity):.100}, which is not a storage")
    return _Storage(STORAGES[_name(dtype)], key, count, view[0][1] if view and view[0] else 0)


def _open_zip(data: mmap.mmap, path: Path) -> tuple[Any, Place]:
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: one for one in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} members data.pkl instead of one")
    folder = pickles[0].removesuffix("data.pkl")

    def place(name: str) -> tuple[int, int]:
        if (member := members.get(folder + name)) is None:
            raise ValueError(f"it has no member {folder}{name}")
        return _place(data, member)

    if f"{folder}byteorder" in members:
        start, size = place("byteorder")
        _check_order(data[start : start + size] == b"little")
    data.seek(place("data.pkl")[0])
    return read_pickle(data, _check, _storage), lambda key: place(f"data/{key}")


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise ValueError("its numbers are not little-endian")


def _place(data: mmap.mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and size of an uncompressed member."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is compressed, which torch never does")
    header_start, size = member.header_offset, member.file_size
    header = data[header_start : header_start + BYTES_BEFORE_NAME] if header_start >= 0 else b""
    if header[:4] != ZIP_MAGIC:
        raise ValueError(f"{member.filename} is not where the file says")
    start = header_start + BYTES_BEFORE_NAME + sum(struct.unpack("<HH", header[-4:]))
    if size != member.compress_size or start + size > len(data):
        raise ValueError(f"{member.filename} is truncated")
    return start, size


def _open_old(data: mmap.mmap) -> tuple[Any, Place]:
    storages: dict[Any, _Storage] = {}

    def refer(identity: object) -> _Storage:
        storage = _storage(identity)
        storages.setdefault(storage.key, storage)
        return storage

    for constant in (OLD_MAGIC, OLD_PROTOCOL):
        if read_pickle(data, _check, refer) != constant:
            raise ValueError("it is not a torch file")
    _check_order(read_pickle(data, _check, refer)["little_endian"] is True)
    tree = read_pickle(data, _check, refer)
    places: dict[str, tuple[int, int]] = {}
    for key in read_pickle(data, _check, refer):
        if not isinstance(key, str):
            raise ValueError("its storages have no names")
        count = struct.unpack("<q", data.read(8))[0]
        start, size = data.tell(), count * storages[key].dtype.itemsize
        if count < 0 or start + size > len(data):
            raise ValueError(f"the storage {key!r:.60} is truncated")
        places[key] = start, size
        data.seek(start + size)
    return tree, places.__getitem__


def _state_dict(tree: object) -> dict[str, Any]:
    inner = tree
    for _ in range(_MOST_LEVELS):
        name = _name_of_state(inner) if isinstance(inner, dict) else None
        if name is None:
            break
        inner = cast(dict[Any, Any], inner)[name]
    if not isinstance(inner, dict) or not inner:
        raise ValueError("it holds no tensors by name")
    return inner


def _name_of_state(tree: dict[Any, Any]) -> Any:
    """The key of the state dict in a checkpoint: a usual one, or the only one that holds tensors;
    None if there is none. Raises ValueError if there are several."""
    holding = [
        name
        for name, value in tree.items()
        if isinstance(value, dict) and any(map(_is_tensor, value.values()))
    ]
    usual = [name for name in STATE_DICTS if name in holding]
    usual += [name for name in STATE_DICTS if isinstance(tree.get(name), dict)]
    if not usual and any(map(_is_tensor, tree.values())):
        return None  # it is the state dict
    if not usual and len(holding) > 1:
        names = reprlib.repr(holding)[1:-1]
        raise ValueError(f"it holds several sets of tensors, {names:.100}; save one of them alone")
    return next(iter(usual or holding), None)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Call) and _name(value.function) in (TENSOR, PARAMETER)


def _views(data: mmap.mmap, tensors: dict[str, object], place: Place) -> dict[str, np.ndarray]:
    views = {}
    for key, value in tensors.items():
        if not isinstance(key, str):
            raise ValueError(f"it has the key {reprlib.repr(key):.100}, which is not text")
        try:
            views[key] = _view(data, value, place)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{key:.200}: {error}") from None
    return views


def _view(data: mmap.mmap, value: object, place: Place) -> np.ndarray:
    if isinstance(value, Call) and _name(value.function) == PARAMETER:
        value = value.arguments[0]
    if not (isinstance(value, Call) and _name(value.function) == TENSOR):
        raise ValueError("it is not a tensor")
    storage, offset, shape, strides, *_ = value.arguments
    begin, size = place(storage.key)
    count, numbers = storage.count, (storage.count, storage.start, offset, *shape, *strides)
    fits = len(shape) == len(strides) <= MOST_AXES
    fits = fits and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if not fits:
        raise ValueError(f"its shape and strides are {reprlib.repr((shape, strides)):.100}")
    places = math.prod(shape)
    last = storage.start + offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # A stride of 0 could make a few bytes an array of any size.
    if count * storage.dtype.itemsize > size or places > count or (places and last >= count):
        raise ValueError(f"its shape {reprlib.repr(shape):.100} reaches beyond its {size} bytes")
    if not places:
        return np.zeros(shape, storage.dtype)
    flat = np.frombuffer(data, storage.dtype, count, begin)[storage.start + offset :]
    steps = [s * storage.dtype.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

"""Remote files (https://, s3://, gs://, hf:// …) as paths of this machine, through fsspec.

A file is copied to a temporary folder when it is opened, and the least recently opened copies are
removed, so any number of shards needs bounded disk space. Nothing is written to the address, and
nothing is executed.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from data.pictures.decoding import MAX_BYTES
from data.sources.base import Unused, printable
from data.sources.files.addresses import PAUSES, calling, open_system, scheme_of, without_secrets
from data.sources.files.tree import Tree, is_hidden, is_picture

MOST_KEPT = 4 << 30
"""Most bytes of copies on the disk; a single file may be larger."""
_PREFIX = "pastel-copies-"
_SPARE = 64 << 20
"""Bytes of the disk that no copy takes."""
_AT_ONCE = 16  # addresses asked about together
_VERSIONS = (
    *("ETag", "etag", "blob_id", "md5Hash", "content_md5", "LastModified", "last_modified"),
    *("updated", "mtime", "modified", "created"),
)
"""Keys with which file systems identify the version of a file."""


@dataclass(frozen=True)
class _Entry:
    """A remote file."""

    address: str
    """The path in the file system's form."""
    shown: str
    size: int | None
    version: int


class RemotePath(PosixPath):
    """The path of a remote file's copy. Its text is the address, and opening it makes the copy."""

    def __str__(self) -> str:
        mirror = _mirror_of(self)
        return mirror.shown(self) if mirror else super().__str__()

    def __fspath__(self) -> str:
        return super().__str__()

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """The copy, opened."""
        with self._copied():
            return super().open(*args, **kwargs)

    def copied(self) -> str:
        """The copy's path, for libraries that open it by name at once."""
        with self._copied():
            return self.__fspath__()

    @contextlib.contextmanager
    def _copied(self) -> Iterator[None]:
        mirror = _mirror_of(self)
        if mirror is None:
            raise FileNotFoundError(f"no {self}")
        with mirror.held(self):
            yield

    def is_file(self, **_: object) -> bool:
        """True if the address has such a file."""
        mirror = _mirror_of(self)
        return mirror is not None and mirror.entry(self) is not None

    def exists(self, **_: object) -> bool:
        """True if the address has such a file, or this is its top folder."""
        mirror = _mirror_of(self)
        return self.is_file() or (mirror is not None and mirror.root == self.__fspath__())

    def stat(self, **_: object) -> os.stat_result:
        """Size and, in place of the time, a number of this version of the file; without a copy."""
        mirror = _mirror_of(self)
        entry = mirror.entry(self) if mirror else None
        if entry is None:
            raise FileNotFoundError(f"no {self}")
        times = {"st_mtime_ns": entry.version}
        fields = (0o100444, 0, 0, 1, 0, 0, entry.size or 0, 0, 0, 0)
        return os.stat_result(fields, times)

    def tree(self) -> "RemoteTree":
        """All files below."""
        mirror = _mirror_of(self)
        return RemoteTree(self, mirror.names() if mirror else [], Unused())


class RemoteTree(Tree):
    """The remote files below an address. Pictures are recognised by their endings, because reading
    a file would copy it."""

    @property
    def pictures(self) -> list[str]:
        """The names with a picture's ending."""
        return [name for name in self.names if is_picture(name)]


_mirrors: dict[str, "_Mirror"] = {}
_lock = threading.Lock()


def _mirror_of(path: RemotePath) -> "_Mirror | None":
    text = path.__fspath__()
    return next((m for root, m in _mirrors.items() if f"{text}/".startswith(f"{root}/")), None)


class _Mirror:
    """Copies of one address's files."""

    def __init__(self, system: Any, shown: str, entries: Mapping[str, _Entry]) -> None:
        self.root = tempfile.mkdtemp(dir=_folder())
        self._system, self._shown, self._entries = system, shown.rstrip("/"), dict(entries)
        self._locks = {name: threading.Lock() for name in entries}
        self._kept: dict[str, int] = {}
        """Bytes of the copies, those opened last at the end."""
        self._total = 0

    def names(self) -> list[str]:
        """The relative names of all files, sorted."""
        return sorted(self._entries)

    def _name(self, path: RemotePath) -> str:
        return path.__fspath__()[len(self.root) + 1 :]

    def entry(self, path: RemotePath) -> _Entry | None:
        """The remote file at a path, if there is one."""
        return self._entries.get(self._name(path))

    def shown(self, path: RemotePath) -> str:
        """The address of a path, as it is printed."""
        name = self._name(path)
        entry = self._entries.get(name)
        return entry.shown if entry else f"{self._shown}/{name}" if name else self._shown

    @contextlib.contextmanager
    def held(self, path: RemotePath) -> Iterator[None]:
        """Copy a file unless that is done, and keep the copy until it is opened."""
        name = self._name(path)
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.shown(path)} is not there")
        with self._locks[name]:
            place = Path(self.root, name)
            if not place.is_file():
                self._copy(entry, place)
            self._count(name, place.stat().st_size)
            yield

    def _copy(self, entry: _Entry, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name[-200:]}.part")

        limit = _limit_of(place)

        def copy() -> None:
            limit.value = 0
            try:
                self._system.get_file(entry.address, str(beside), callback=limit)
            except Exception:
                if limit.is_exceeded:
                    return
                raise
            if entry.size is not None and (size := beside.stat().st_size) != entry.size:
                raise OSError(f"{size:,} of {entry.size:,} bytes came")

        try:
            if entry.size is None or entry.size <= limit.most:
                calling(entry.shown, copy, PAUSES)
            if limit.is_exceeded or (entry.size or 0) > limit.most:
                raise ValueError(
                    f"{printable(entry.shown)} has more than {limit.most:,} bytes, or no end"
                )
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)

    def _count(self, name: str, size: int) -> None:
        with _lock:
            self._total += size - self._kept.pop(name, 0)
            self._kept[name] = size
            if self._total <= MOST_KEPT:
                return
            for other in list(self._kept)[:-1]:
                # A copy that is being opened just now stays.
                if self._total > MOST_KEPT and self._locks[other].acquire(blocking=False):
                    Path(self.root, other).unlink(missing_ok=True)
                    self._total -= self._kept.pop(other)
                    self._locks[other].release()


def _limit_of(place: Path) -> Any:
    """A callback of fsspec that ends a copy at the size of the largest picture, or at the disk's
    free space: a server may send bytes without end."""
    from fsspec.callbacks import Callback

    class Limit(Callback):
        most = MAX_BYTES if is_picture(place.name) else _room(place)
        is_exceeded = False

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > self.most:
                self.is_exceeded = True
                raise OSError("too large")

    return Limit()


def _room(place: Path) -> int:
    return max(shutil.disk_usage(place.parent).free - _SPARE, 0)


def open_files(addresses: list[str]) -> list[Path]:
    """The files at these addresses, named by the last parts of the addresses; equal names are
    numbered.

    Raises:
        RemoteError: a file does not exist or cannot be reached.
    """
    system = open_system(addresses[0])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        about = list(pool.map(lambda one: _ask(system, one), addresses))
    entries: dict[str, _Entry] = {}
    for number, (address, info) in enumerate(zip(addresses, about, strict=True)):
        name = unquote(urlsplit(address).path if "?" in address else address).rpartition("/")[2]
        if name in entries or is_hidden(name) or not name:
            name = f"{number:06d}/{name.lstrip('.') or 'file'}"
        entries[name] = _entry(str(info["name"]), without_secrets(address), info)
    first = without_secrets(addresses[0])
    shown = first if len(addresses) == 1 else first.rpartition("/")[0]
    root = _open_mirror(system, shown.rpartition("/")[0] if len(addresses) == 1 else shown, entries)
    return [root / name for name in entries]


def _ask(system: Any, address: str) -> dict[str, Any]:
    return cast(dict[str, Any], calling(without_secrets(address), lambda: system.info(address)))


def open_folder(address: str) -> RemotePath:
    """The folder at an address.

    Raises:
        RemoteError: it cannot be listed.
    """
    system, shown = open_system(address), without_secrets(address)
    base = address.rstrip("/") + "/"
    is_web = scheme_of(address) in ("http", "https")
    root = base if is_web else str(system._strip_protocol(address)).rstrip("/") + "/"
    infos_by_name: dict[str, Any] = calling(
        shown, lambda: system.find(base, maxdepth=32, detail=True)
    )
    if not infos_by_name:  # web servers that cannot be reached are found empty
        calling(shown, lambda: system.ls(base), PAUSES)
    entries = {}
    for full, info in infos_by_name.items():
        name = full.removeprefix(root) if full.startswith(root) else ""
        name = unquote(name.partition("?")[0]) if is_web else name
        parts = name.split("/")
        if name and not any(part in ("", "..") or is_hidden(part) for part in parts):
            entries[name] = (full, info)
    if is_web:  # its listings have no sizes
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            infos = list(pool.map(lambda one: _ask(system, one[0]), entries.values()))
        entries = {n: (e[0], i) for (n, e), i in zip(entries.items(), infos, strict=True)}
    shown = shown.rstrip("/")
    files = {n: _entry(full, f"{shown}/{n}", info) for n, (full, info) in entries.items()}
    return _open_mirror(system, shown, files)


def _entry(address: str, shown: str, info: Mapping[str, object]) -> _Entry:
    size = info.get("size")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    digest = hashlib.blake2b(f"{version}:{size}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    return _Entry(address, shown, size if isinstance(size, int) else None, number)


def _open_mirror(system: object, shown: str, entries: Mapping[str, _Entry]) -> RemotePath:
    mirror = _Mirror(system, shown, entries)
    _mirrors[mirror.root] = mirror
    return RemotePath(mirror.root)


_folders: dict[int, str] = {}


def _folder() -> str:
    """The folder of this process's copies; those of processes that were killed are removed."""
    if os.getpid() not in _folders:
        for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            number = other.name.removeprefix(_PREFIX).partition("-")[0]
            if number.isdigit() and not Path("/proc", number).exists() and _is_ours(other):
                shutil.rmtree(other, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        _folders[os.getpid()] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _folders[os.getpid()]


def _is_ours(path: Path) -> bool:
    """True if this user made the folder. Without /proc, nothing is known to be dead."""
    try:
        return Path("/proc/self").exists() and path.lstat().st_uid == os.getuid()
    except OSError:
        return False

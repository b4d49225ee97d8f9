"""Zip files, seen as the files that they hold: nothing is unpacked to the disk."""

import lzma
import os
import threading
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from data.sources.base import Unused, printable
from data.sources.captions.encodings import decode, guess_of_names, is_other_encoding
from data.sources.files.tree import Tree, is_hidden, is_picture

_MAX_MEMBERS = 4_000_000  # zipfile holds half a kilobyte of each
_LOCK = threading.Lock()
_UNREADABLE = (
    *(zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError),
    *(zlib.error, lzma.LZMAError),
)
"""Errors of zipfile; RuntimeError is for encrypted members."""


class ZipTree(Tree):
    """The members of zip files beside one another, each under the name of its zip if there are
    several, and with them the loose files of their folder."""

    def __init__(self, files: Sequence[Path], loose: Tree | None = None) -> None:
        self.files, self.damage = list(files), dict[str, str]()
        is_alone = len(files) == 1 and loose is None
        common = type(files[0])(os.path.commonpath([file.absolute().parent for file in files]))
        folder = files[0] if is_alone else common if loose is None else loose.folder
        super().__init__(folder, [], Unused())
        self.names_read_as = ""
        """The encoding of the names of members, if it was guessed."""
        self._places: dict[str, tuple[Path, str]] = {}
        for file in files:
            under = "" if is_alone else os.path.relpath(file, folder).replace(os.sep, "/") + "/"
            for name, member in self._members(file).items():
                self._places[under + name] = (file, member)
        self._loose = loose
        if loose is not None:
            self.unused.join(loose.unused)
        zipped = {os.path.relpath(file, folder).replace(os.sep, "/") for file in files}
        beside = [name for name in (loose.names if loose else ()) if name not in zipped]
        self.names = sorted([*self._places, *beside])

    def _members(self, file: Path) -> dict[str, str]:
        """Names as paths below the zip → names of members."""
        try:
            opened = _open(file, os.getpid())
        except (*_UNREADABLE, OSError, ValueError) as error:
            self.damage[file.name] = printable(str(error))
            return {}
        members = opened.infolist()
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"{file} has more than {_MAX_MEMBERS:,} members; unpack it")
        names: dict[str, str] = {}
        encoding = self._encoding_of_names(members)
        for member in members:
            name = _name_of(member, encoding)
            parts = [part for part in name.split("/") if part not in ("", ".", "..")]
            if parts and not member.is_dir() and not any(map(is_hidden, parts)):
                if "/".join(parts) in names:
                    self.unused.add("members of a name that comes twice", member.filename)
                names["/".join(parts)] = member.filename
        return names

    def _encoding_of_names(self, members: Sequence[zipfile.ZipInfo]) -> str:
        """The encoding of all names that are not UTF-8: one alone is too short for a guess."""
        others = [raw for raw in map(_raw_name, members) if is_other_encoding(raw)]
        encoding = guess_of_names(others) if others else ""
        self.names_read_as = self.names_read_as or encoding
        return encoding

    @cached_property
    def pictures(self) -> list[str]:
        """Pictures by suffix only: looking into each file would unpack it."""
        return [name for name in self.names if is_picture(name)]

    def path(self, name: str) -> Path:
        """The zip that it is in, or the loose file."""
        return self._places[name][0] if name in self._places else super().path(name)

    def open(self, name: str) -> BufferedIOBase:
        if name not in self._places:
            return super().open(name)
        file, member = self._places[name]
        try:
            return cast(BufferedIOBase, _open(file, os.getpid()).open(member))
        except _UNREADABLE as error:
            raise _cannot(name, error) from None

    def size(self, name: str) -> int:
        if name not in self._places:
            return super().size(name)
        file, member = self._places[name]
        return _open(file, os.getpid()).getinfo(member).file_size

    def read(self, name: str, limit: int) -> bytes:
        try:
            return super().read(name, limit)
        except _UNREADABLE as error:
            raise _cannot(name, error) from None


def _open(file: Path, process: int) -> zipfile.ZipFile:
    """Opened once in a process: processes that were forked would share the place in the file."""
    stat = file.stat()
    with _LOCK:
        return _opened(file, process, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _opened(file: Path, process: int, size: int, time: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(file.open("rb"))


def _cannot(name: str, error: Exception) -> ValueError:
    return ValueError(f"{printable(name)} cannot be unpacked: {printable(str(error))}")


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    """The bytes of a name that is not said to be UTF-8; zipfile reads them as the IBM PC's."""
    name = member.filename
    is_told = member.flag_bits & 0x800 or name.isascii()
    return b"" if is_told else name.encode("cp437", "replace")


def _name_of(member: zipfile.ZipInfo, encoding: str) -> str:
    """The member's name, with slashes. Old programs wrote names in the encoding of their country,
    which is `encoding` if they are not UTF-8."""
    raw = _raw_name(member)
    return (decode(raw, encoding)[0] if raw else member.filename).replace("\\", "/")

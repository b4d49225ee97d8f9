"""An index of the members of a tar by offset: nothing is unpacked, and only what is asked is read.

Grouped as webdataset does: the key is the name up to the first dot of its last part. Only members
with a listed ending count; webdataset's own `.decode()` is never used, for it runs pickles.
"""

import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of one file of a tar lie."""

    name: str
    offset: int
    size: int


@dataclass
class TarIndex:
    """Members by key and ending, in the order of the tar."""

    path: Path
    samples: dict[str, dict[str, Member]] = field(default_factory=dict)
    damage: str = ""
    """What ended the index before the end of the file, if anything did."""


def index_tar(path: Path, endings: Collection[str]) -> TarIndex:
    """List the regular members with these endings. A tar that was cut off keeps what is whole."""
    index, file_size, end = TarIndex(path), path.stat().st_size, 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                key, ending = split_name(info.name)
                if not info.isreg() or info.issparse() or ending not in endings:
                    continue
                if info.offset_data + info.size > file_size:
                    index.damage = f"cut off inside {info.name}"
                    break
                member = Member(info.name, info.offset_data, info.size)
                index.samples.setdefault(key, {})[ending] = member
        # tarfile takes half a header for the end, but a whole tar ends with blocks of zeros.
        if not index.damage and end + _BLOCK > file_size:
            index.damage = "cut off at its end"
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        index.damage = f"{type(error).__name__}: {error}"
    return index


def split_name(name: str) -> tuple[str, str]:
    """Key and lower-case ending of a member: "a/0001.seg.png" → ("a/0001", "seg.png")."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def read_member(path: Path, member: Member, limit: int) -> bytes:
    """The bytes of one member; of a longer one just enough to see that it is beyond the limit."""
    with path.open("rb") as file:
        file.seek(member.offset)
        return file.read(min(member.size, limit + 1))

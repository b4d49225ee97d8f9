"""Lists the members of a tar with their offsets, from its headers only: nothing is unpacked.

It follows POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU tar's manual. Python's tarfile is not
used, because a member of size −512 makes it loop forever (CVE-2025-8194). Every size is compared
with the file's, so each step goes forwards and ends. Several tars in one file are read one after
the other, as `tar --ignore-zeros` does.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data.sources.base import printable

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_ZEROS = 1 << 26
"""Bytes between archives; `tar -b` pads by a few MB at most."""
_MAX_EXTENSION = 1 << 20  # bytes of a name or of pax records before a header
_REGULAR = b"0\x007"
_WITHOUT_DATA = b"123456"


class DamagedTarError(ValueError):
    """The fault that ended the reading of a tar, with its member or byte."""


_PACKED = (
    *((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")),
    (b"PK", "zip"),
)
"""First bytes of compressed files that are named .tar."""


@dataclass
class Listing:
    """The regular members of a tar in its order."""

    names: list[str] = field(default_factory=list)
    offsets: array = field(default_factory=lambda: array("q"))
    sizes: array = field(default_factory=lambda: array("q"))
    parts: array = field(default_factory=lambda: array("q"))
    """Places of members at which another tar begins."""
    damage: str = ""
    """The fault that ended the listing before the end of the file, if there was one."""


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int
    data: int
    """Offset of the member's bytes."""
    is_sparse: bool = False


def list_members(path: Path) -> Listing:
    """The members of a tar; if it is truncated or damaged, those before the fault."""
    listing = Listing()
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        try:
            for header, is_new in _headers(file, length):
                if is_new and listing.names:
                    listing.parts.append(len(listing.names))
                if header.data + header.size > length:
                    raise DamagedTarError(f"truncated inside {printable(header.name)}")
                if header.kind in _REGULAR and not header.is_sparse and header.name[-1:] != "/":
                    listing.names.append(header.name)
                    listing.offsets.append(header.data)
                    listing.sizes.append(header.size)
        except DamagedTarError as error:
            listing.damage = str(error)
    return listing


def _headers(file: BinaryIO, length: int) -> Iterator[tuple[_Header, bool]]:
    """Each member's header, and whether it is the first after an end of archive."""
    start, zeros, before = 0, 0, ""
    while start < length:
        file.seek(start)
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            run = _count_zeros(file, start)
            zeros, start = zeros + run, start + run
            if zeros > _MAX_ZEROS:
                raise DamagedTarError(
                    f"nothing but zeros before byte {start:,}; the rest is not read"
                )
            continue
        try:
            header = _read_header(file, start, length)
        except DamagedTarError as error:
            if not start and (packed := next((n for m, n in _PACKED if block.startswith(m)), "")):
                raise DamagedTarError(f"compressed by {packed}; unpack it first") from None
            place = f"after {printable(before)}" if before else f"at byte {start:,}"
            raise DamagedTarError(f"{error}, {place}") from None
        yield header, zeros > 0
        zeros, before = 0, header.name
        start = header.data + -(-header.size // _BLOCK) * _BLOCK
    if not zeros:
        raise DamagedTarError("truncated at its end" if length else "an empty file")


def _count_zeros(file: BinaryIO, start: int) -> int:
    """The number of bytes of zero blocks from a place on, at most one chunk's."""
    file.seek(start)
    chunk = file.read(_CHUNK)
    rest = chunk.lstrip(b"\0")
    return (len(chunk) - len(rest)) // _BLOCK * _BLOCK if rest else len(chunk)


def _read_header(file: BinaryIO, position: int, length: int) -> _Header:
    """The header at a place, with the extensions before it that name or size its member."""
    name: str | None = None
    size: int | None = None
    is_sparse = False
    while True:
        block = _block(file, position)
        kind = block[156:157]
        stored = _size(block[124:136], _plain_name(block))
        position += _BLOCK
        if kind not in b"LKxgX":
            break
        if stored > min(_MAX_EXTENSION, length - position):
            raise DamagedTarError(f"an extended header of {stored:,} bytes")
        file.seek(position)
        content = file.read(stored)
        position += -(-stored // _BLOCK) * _BLOCK
        if kind == b"L":
            name = os.fsdecode(content.partition(b"\0")[0])
        elif kind in b"xX":
            records = _pax(content)
            name = os.fsdecode(records["path"]) if "path" in records else name
            size = _decimal(records["size"]) if "size" in records else size
            is_sparse |= any(key.startswith("GNU.sparse.") for key in records)
    if kind == b"S":
        is_sparse = True
        is_more = block[482:483] != b"\0"
        while is_more:  # further blocks of a sparse file's map
            file.seek(position)
            more, position = file.read(_BLOCK), position + _BLOCK
            if len(more) < _BLOCK:
                raise DamagedTarError("truncated inside a header")
            is_more = more[504:505] != b"\0"
    size = stored if size is None else size
    has_data = kind not in _WITHOUT_DATA
    return _Header(
        _plain_name(block) if name is None else name, kind, size * has_data, position, is_sparse
    )


def _block(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise DamagedTarError("truncated inside a header")
    digits = block[148:156].strip(b" \0")
    checksum = int(digits, 8) if digits and not digits.strip(b"01234567") else -1
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if checksum != unsigned:
        signed = unsigned - 256 * sum(b > 127 for b in block[:148] + block[156:])
        if checksum != signed:  # old tars added signed bytes
            raise DamagedTarError("no tar header (its checksum is wrong)")
    return block


def _plain_name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _size(content: bytes, name: str) -> int:
    """An octal number, or GNU's base 256; never below zero."""
    if content[0] == 0x80:
        return int.from_bytes(content[1:], "big")
    if content[0] == 0xFF:
        negative = int.from_bytes(content, "big", signed=True)
        raise DamagedTarError(f"{printable(name)} has the size {negative:,}")
    digits = content.partition(b"\0")[0].strip(b" ")
    try:
        number = int(digits, 8) if digits else 0
    except ValueError:
        number = -1
    if number < 0 or b"_" in digits:
        shown = printable(digits.decode("latin-1"))
        raise DamagedTarError(f"{printable(name)} has the size {shown!r}")
    return number


def _decimal(content: bytes) -> int:
    if not content.isdigit() or len(content) > 20:
        shown = printable(content.decode("latin-1"))[:40]
        raise DamagedTarError(f"a pax header has the size {shown!r}")
    return int(content)


def _pax(content: bytes) -> dict[str, bytes]:
    r"""The records of a pax header, "length key=value\n" each."""
    records: dict[str, bytes] = {}
    start, end = 0, len(content.rstrip(b"\0"))
    while start < end:
        digits, space, _ = content[start : start + 24].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        if not 5 <= length <= len(content) - start:
            raise DamagedTarError("a pax header whose records have no length")
        key, equals, value = content[start + len(digits) + 1 : start + length - 1].partition(b"=")
        if equals:
            records[key.decode("utf-8", "replace")] = value
        start += length
    return records

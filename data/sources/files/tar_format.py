"""Lists the members of a tar with their offsets, from its headers only: nothing is unpacked.

It follows POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU tar's manual. Python's tarfile is not
used, because a member of size −512 makes it loop forever (CVE-2025-8194). Every size is compared
with the file's, so each step goes forwards and ends. Several tars in one file are read one after
the other, as `tar --ignore-zeros` does.
"""

import os
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from data.sources.base import printable

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_ZEROS = 1 << 26
"""Bytes between archives; `tar -b` pads by a few MB at most."""
_MAX_EXTENSION = 1 << 20  # bytes of a name or of pax records before a header
_REGULAR = b"0\x007"
_LINKS = b"12"
_MAX_HOPS = 8  # a link may lead to another one
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
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(reason, name) of members without bytes of their own that could be read."""
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
    link: str = ""
    """The member, or the path, that a link names."""


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    target: str
    before: int
    """The member before which it stands."""
    part: int
    """Number of tars that begin before it in the file, without the first."""


def list_members(path: Path) -> Listing:
    """The members of a tar; if it is truncated or damaged, those before the fault."""
    listing, links = Listing(), list[_Link]()
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
                elif header.kind in _LINKS:
                    place = len(listing.names)
                    links.append(_Link(header.name, _target(header), place, len(listing.parts)))
                elif header.is_sparse:
                    listing.skipped.append(("members with holes (tar --sparse)", header.name))
        except DamagedTarError as error:
            listing.damage = str(error)
    return _with_links(listing, links)


def _target(header: _Header) -> str:
    """The name of the member that a link means: a hard link names it, a symbolic one its path from
    the link's folder."""
    folder = os.path.dirname(header.name) if header.kind == b"2" else ""
    return os.path.normpath(os.path.join(folder, header.link))


def _with_links(listing: Listing, links: Sequence[_Link]) -> Listing:
    """The listing with links as members that have the bytes of those that they name: tar writes a
    file with several names once. A link that leads out of its tar is skipped."""
    if not links:
        return listing
    starts = [0, *listing.parts, len(listing.names)]
    result = Listing(damage=listing.damage, skipped=listing.skipped)
    for part, (begin, end) in enumerate(pairwise(starts)):
        if part:
            result.parts.append(len(result.names))
        places = {os.path.normpath(listing.names[i]): i for i in range(begin, end)}
        here = deque(link for link in links if link.part == part)
        targets = {os.path.normpath(link.name): link.target for link in here}
        for i in range(begin, end + 1):
            while here and here[0].before <= i:
                link = here.popleft()
                place = places.get(_last_target(link.target, targets))
                if place is None:
                    reason = "links to files that are not in the tar"
                    result.skipped.append((reason, link.name))
                else:
                    _copy(listing, place, link.name, result)
            if i < end:
                _copy(listing, i, listing.names[i], result)
    return result


def _last_target(target: str, targets: Mapping[str, str]) -> str:
    """The name at the end of a chain of links."""
    for _ in range(_MAX_HOPS):
        if target not in targets:
            break
        target = targets[target]
    return target


def _copy(listing: Listing, place: int, name: str, result: Listing) -> None:
    result.names.append(name)
    result.offsets.append(listing.offsets[place])
    result.sizes.append(listing.sizes[place])


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
    link: str | None = None
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
        elif kind == b"K":
            link = os.fsdecode(content.partition(b"\0")[0])
        elif kind in b"xX":
            records = _pax(content)
            name = os.fsdecode(records["path"]) if "path" in records else name
            link = os.fsdecode(records["linkpath"]) if "linkpath" in records else link
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
        _plain_name(block) if name is None else name,
        kind,
        size * has_data,
        position,
        is_sparse,
        os.fsdecode(block[157:257].partition(b"\0")[0]) if link is None else link,
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

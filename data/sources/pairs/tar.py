"""Webdataset tars as img2dataset and `python -m data.emoji` write them: 0001.jpg with 0001.txt or
0001.json.

webdataset's own `.decode()` is never used, because it runs pickles.
"""

import bisect
import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from data.pictures.decoding import MAX_BYTES
from data.sources.base import (
    MAX_CAPTION_BYTES,
    Example,
    Source,
    Unused,
    counted,
    describe,
    printable,
)
from data.sources.captions.names import count_named, encoding_of_names
from data.sources.captions.splits import splits_of
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files.tar_format import Listing, list_members
from data.sources.files.tree import CAPTION_ENDINGS, ending_of, is_hidden, is_picture
from data.sources.pairs.folder import (
    LOOKED_AT,
    NOT_BESIDE,
    NOT_NAMED,
    beside_about,
    example_beside,
    guess_encoding,
)
from data.sources.pairs.pairing import Pair, pair

_TABLES = ("csv", "tsv", "jsonl", "parquet")
_NEITHER = "members that are neither pictures nor captions"
_TARS_LOOKED_AT = 8
_LOCK = threading.Lock()


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar. Members of joined tars are paired within their own tar."""

    path: Path
    listing: Listing
    pairs: list[Pair]
    unused: Unused

    def read(self, place: int, limit: int) -> bytes:
        """The bytes of a member; for a member longer than `limit`, just enough to show that."""
        with self.path.open("rb") as file:
            file.seek(self.listing.offsets[place])
            return file.read(min(self.listing.sizes[place], limit + 1))


def index_tar(path: Path) -> TarIndex:
    """The samples of a tar. Only the last few tars are cached, so that memory does not grow."""
    stat = path.stat()
    with _LOCK:
        return _index(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _index(path: Path, size: int, time: int) -> TarIndex:
    listing, unused = list_members(path), Unused()
    for reason, name in listing.skipped:
        unused.add(reason, f"{path.name}/{name}")
    pairs = [one for part in _parts(listing) for one in _pairs_in(*part, path, listing, unused)]
    return TarIndex(path, listing, pairs, unused)


def _pairs_in(begin: int, end: int, path: Path, listing: Listing, unused: Unused) -> Iterator[Pair]:
    """The samples among the members `begin` … `end` − 1 of a tar."""
    names = [_plain(name) if name[:1] in ("/", ".") else name for name in listing.names[begin:end]]
    for i, size in enumerate(listing.sizes[begin:end]):
        if reason := _why_unused(names[i], size):
            unused.add(reason, f"{path.name}/{names[i]}")
            names[i] = ""
    pictures = [i for i, name in enumerate(names) if is_picture(name)]
    for found in pair(names, pictures, unused, is_webdataset=True):
        texts = tuple((ending, begin + i) for ending, i in found.texts)
        yield Pair(found.key, begin + found.picture, texts)


def _why_unused(name: str, size: int) -> str:
    """Why a member is neither a picture nor a caption; empty if it is one of them."""
    if not size:
        return "members without a byte"
    if any(is_hidden(part) for part in name.split("/") if part != ".."):
        return "hidden members, such as macOS adds"
    return "" if is_picture(name) or ending_of(name) in CAPTION_ENDINGS else _NEITHER


def _tables(unused: Unused) -> str:
    tables = [n for names in unused.names.values() for n in names if ending_of(n) in _TABLES]
    return ", ".join(map(printable, tables))


def _other_endings(unused: Unused) -> str:
    names = unused.names.get(_NEITHER, ())
    return ", ".join(dict.fromkeys("." + printable(ending_of(name)) for name in names))


def _plain(name: str) -> str:
    """The name without ./ or / in front, which only some members of a tar may have."""
    while name.startswith(("./", "/")):
        name = name[2:] if name[0] == "." else name[1:]
    return name


def _count_captioned(index: TarIndex, config: ReadingConfig) -> int:
    """The number of pictures in a tar with a caption, as the settings find captions."""
    if config.captions == "names":
        return count_named(index.listing.names[entry.picture] for entry in index.pairs)
    if config.captions == "inside":
        return len(index.pairs)
    return sum(bool(entry.texts) for entry in index.pairs)


def _parts(listing: Listing) -> list[tuple[int, int]]:
    """Ranges of members in which every name is unique. Tars may be joined, with or without the
    blocks that end one."""
    starts, seen = [0], set[str]()
    ends = set(listing.parts)
    for place, name in enumerate(listing.names):
        if place in ends or name in seen:
            starts.append(place)
            seen = set()
        seen.add(name)
    return list(zip(starts, [*starts[1:], len(listing.names)], strict=True))


class TarSource(Source):
    """Samples of tars, one tar after the other."""

    kind = "tar"

    def __init__(
        self, tars: Sequence[Path], folder: Path | None = None, config: ReadingConfig = PLAIN
    ) -> None:
        common = os.path.commonpath([tar.absolute().parent for tar in tars])
        self.path, self.files, self.config = folder or type(tars[0])(common), list(tars), config
        self.damage, self.unused, self.num_captioned = {}, Unused(), 0
        counts = array("q")
        for tar in tars:
            index = index_tar(tar)
            counts.append(len(index.pairs))
            self.num_captioned += _count_captioned(index, config)
            self.unused.join(index.unused)
            if index.listing.damage:
                self.damage[os.path.relpath(tar, self.path)] = index.listing.damage
        self._ends = array("q", accumulate(counts))
        names = [os.path.relpath(tar, self.path).replace(os.sep, "/") for tar in tars]
        self._splits = splits_of(names, by_file=True) if config.splits == "own" else []
        self.encoding = config.caption_encoding or self._guessed_encoding()
        self.about = beside_about(counted(len(tars), "webdataset tar"), config)
        self.sought = NOT_NAMED if config.captions == "names" else NOT_BESIDE
        if tables := _tables(self.unused):
            self.sought += f" (there is {tables}: unpack the tars, tables in them are not read)"
        elif others := _other_endings(self.unused):
            self.sought += f" (its other members end in {others}; of these none is read)"

    def __len__(self) -> int:
        return self._ends[-1]

    def describe(self) -> str:
        """A line about the source, with the name of its tar if it is a single one."""
        alone = self.files[0] if len(self.files) == 1 else self.path
        return describe(alone, self)

    def _guessed_encoding(self) -> str:
        if self.config.captions != "names":
            return guess_encoding(self._some_captions())
        return encoding_of_names(
            tar.listing.names[entry.picture] for tar, entries in self._some() for entry in entries
        )

    def _some_captions(self) -> Iterator[bytes]:
        for tar, entries in self._some():
            for entry in entries:
                yield from (tar.read(place, MAX_CAPTION_BYTES) for _, place in entry.texts)

    def _some(self) -> Iterator[tuple[TarIndex, Sequence[Pair]]]:
        """Samples of a few tars, spread over all: the first ones may be of another kind."""
        files = self.files[:: -(-len(self.files) // _TARS_LOOKED_AT)]
        for tar in map(index_tar, files):
            every = max(len(tar.pairs) * len(files) // LOOKED_AT, 1)
            yield tar, tar.pairs[::every]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        tar = index_tar(self.files[number])
        entry = tar.pairs[index - (self._ends[number - 1] if number else 0)]
        files = {ending: tar.read(place, MAX_CAPTION_BYTES) for ending, place in entry.texts}
        file = os.path.relpath(tar.path, self.path)
        data = tar.read(entry.picture, MAX_BYTES)
        member = tar.listing.names[entry.picture]
        example = example_beside(entry.key, data, files, file, self.config, self.encoding, member)
        split = self._splits[number] if self._splits else ""
        return replace(example, split=example.split or split)

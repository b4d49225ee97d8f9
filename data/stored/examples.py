"""Metadata of the examples in token records: one JSON line per example, read when indexed.

examples.i64 holds the offset of each line, and the end of the last. Older records lack it; then the
first access searches the file for line ends.
"""

import json
import mmap
import operator
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int64

from common.json_files import Json
from data.stored.array_files import open_bytes, open_mapped

LINES, OFFSETS = "examples.jsonl", "examples.i64"
KINDS: dict[str, type] = {"key": str, "source_index": int, "caption": str, "split": str}
"""Keys that every line has, with their types."""
ATTRIBUTE = str | int | float | None
MOST_BYTES = 1 << 24  # of a line
_CHUNK = 1 << 24  # bytes searched at a time


class Examples(Sequence[Json]):
    """A sequence of dicts: key, source_index, file, member, caption (the first one), split, and the
    source's attributes, such as concept and tone. Each access reads one line.

    Raises:
        ValueError: on access, if a line is not a JSON object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _offsets(self) -> Int64[np.ndarray, " offsets"]:
        """The byte offset of each line, and the end of the last."""
        path = self._folder / OFFSETS
        lines = self._folder / LINES
        if not lines.is_file():
            raise ValueError(f"{lines} is not a file; make the records again")
        if path.is_file() and path.stat().st_size >= 8:
            if path.stat().st_size % 8 == 0:
                offsets = open_mapped(path, "<i8")
                if offsets[0] == 0 and offsets[-1] == lines.stat().st_size:
                    return offsets
            raise ValueError(f"{path} does not fit {LINES} beside it; make the records again")
        return _find_lines(lines)

    @cached_property
    def _lines(self) -> mmap.mmap:
        """The bytes of the file, memory-mapped."""
        return open_bytes(self._folder / LINES)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> Json: ...
    @overload
    def __getitem__(self, index: slice) -> list[Json]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Json | list[Json]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count, place = len(self), operator.index(index)
        if not -count <= place < count:
            raise IndexError(f"example {place} of {count}")
        return self._read(place % count)

    def _read(self, place: int) -> Json:
        begin, end = (int(offset) for offset in self._offsets[place : place + 2])
        path = self._folder / LINES
        if not 0 <= begin < end <= begin + MOST_BYTES:
            raise ValueError(f"{path} is damaged: line {place + 1} is from byte {begin} to {end}")
        try:
            example = json.loads(self._lines[begin:end])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged in line {place + 1}: {error}") from None
        if not isinstance(example, dict):
            raise ValueError(f"{path} is damaged in line {place + 1}: not a JSON object")
        for name, value in example.items():
            if not isinstance(value, KINDS.get(name, ATTRIBUTE)):
                raise ValueError(f"{path} is damaged in line {place + 1}: {name} is {value!r:.40}")
        return _Line(example, where=f"{path} is damaged in line {place + 1}")


class _Line(Json):
    """One line's keys and values. Raises ValueError for a missing key."""

    def __init__(self, content: dict[str, object], where: str) -> None:
        super().__init__(content)
        self._where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self._where}: {name} is missing")


class ExampleWriter:
    """Writes the lines and their offsets, part by part."""

    def __init__(self, folder: Path) -> None:
        self._lines, self._offsets = ((folder / n).open("wb") for n in (LINES, OFFSETS))
        self._end = 0
        self._offsets.write(bytes(8))

    def add(self, examples: Iterable[Json]) -> None:
        """Append one line for each example."""
        ends = []
        for example in examples:
            # In ASCII: the name of a file or folder need not be UTF-8.
            self._end += self._lines.write(json.dumps(example).encode("ascii") + b"\n")
            ends.append(self._end)
        self._offsets.write(np.array(ends, "<i8").tobytes())

    def __enter__(self) -> "ExampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._offsets.close()


def _find_lines(path: Path) -> Int64[np.ndarray, " offsets"]:
    starts, start, last = [np.zeros(1, np.int64)], 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            starts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + start + 1)
            start, last = start + len(chunk), chunk[-1:]
    if last != b"\n":  # the last line need not end
        starts.append(np.array([start], np.int64))
    return np.concatenate(starts)

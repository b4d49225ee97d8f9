"""Decoded pictures of a source, read ahead on threads. Unusable pictures are reported and
skipped."""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data.pictures import UnreadablePictureError
from data.sources import PLAIN, Example, ReadingConfig, Source, printable

_CHUNK = 64  # pictures decoded ahead of the one that is handed out
_MAX_THREADS = 16
_JUDGED_FROM = 200  # pictures, below which a share of bad ones says little


@dataclass(frozen=True)
class Reading:
    """One picture of a source: its pixels, or the reason why it has none."""

    index: int
    example: Example | None
    pixels: UInt8[np.ndarray, "y x 3"] | None
    problem: str = ""

    @property
    def name(self) -> str:
        """The picture's name, as a person would look for it."""
        if self.example is None:
            return f"picture {self.index}"
        member, file = self.example.member, self.example.file
        return f"{file}/{member}" if member and file else member or file


def read_pictures(
    source: Source,
    image_size: int,
    indices: Sequence[int] | None = None,
    need_captions: bool = False,
    config: ReadingConfig = PLAIN,
) -> Iterator[Reading]:
    """Read the pictures at `indices` (default: all), in that order, without keeping their files'
    bytes.

    Raises:
        ValueError: more than config.max_bad_fraction of the pictures are unusable.
    """
    wanted = range(len(source)) if indices is None else indices

    def read(index: int) -> Reading:
        return _read(source, int(index), image_size, need_captions, config)

    bad = Counter[str]()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        for seen, reading in enumerate(_ahead(pool, read, wanted), start=1):
            if reading.pixels is None:
                bad[reading.problem] += 1
                _check_share(source, bad, seen, len(wanted), config.max_bad_fraction)
            yield reading


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], Reading], wanted: Sequence[int]
) -> Iterator[Reading]:
    ahead: deque[Iterator[Reading]] = deque()
    for start in range(0, len(wanted), _CHUNK):
        ahead.append(pool.map(read, wanted[start : start + _CHUNK]))
        if len(ahead) == 2:
            yield from ahead.popleft()
    for rest in ahead:
        yield from rest


def _check_share(source: Source, bad: Counter[str], seen: int, total: int, most: float) -> None:
    count = bad.total()
    if most < 1 and seen >= _JUDGED_FROM and count > most * seen:
        why = ", ".join(f"{n:,} × {problem}" for problem, n in bad.most_common(3))
        raise ValueError(
            f"{printable(str(source.path))}: {count:,} of the first {seen:,} of {total:,} pictures "
            f"cannot be used ({printable(why)}), more than max_bad_fraction {most}; mend them, or "
            f"use --max_bad_fraction=1"
        )


def _read(
    source: Source, index: int, image_size: int, need_captions: bool, config: ReadingConfig
) -> Reading:
    try:
        example = source[index]
    except (OSError, ValueError) as error:
        return Reading(index, None, None, str(error))
    kept = replace(example, data=b"")
    if example.missing:
        return Reading(index, kept, None, example.missing)
    if need_captions and not example.captions:
        return Reading(index, kept, None, "; ".join(("no caption", *example.notes)))
    try:
        return Reading(index, kept, example.picture(image_size, config))
    except UnreadablePictureError as error:
        return Reading(index, kept, None, str(error))


class Notes:
    """Captions that were mended, counted by kind over a whole source."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reading: Reading) -> None:
        """Count the notes of one picture."""
        for note in reading.example.notes if reading.example else ():
            self._counts[note] += 1
            self._first.setdefault(note, reading.name)

    def sentences(self) -> list[str]:
        """One sentence for each kind, with the number of pictures and the first one's name."""
        return [
            f"{note}: {count:,} pictures, the first is {printable(self._first[note])}"
            for note, count in sorted(self._counts.items())
        ]


def tell_skipped(skipped: Sequence[tuple[str, str]], total: int) -> str:
    """One sentence with the number of skipped pictures and the first few names."""
    named = ", ".join(f"{printable(name)} ({printable(why)})" for name, why in skipped[:5])
    more = f" and {len(skipped) - 5:,} more" if len(skipped) > 5 else ""
    return f"skipped {len(skipped):,} of {total:,} pictures: {named}{more}"


def write_bad_samples(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write one JSON line for each skipped picture: its name and the reason."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"picture": name, "reason": why}) + "\n" for name, why in skipped
        )

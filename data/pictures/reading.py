"""Reads and decodes the pictures of a source ahead, on threads; unusable ones are skipped and
reported."""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from data.pictures.decoding import UnreadablePictureError, size_of
from data.pictures.views import NO_VIEWS, Views, make_views, views_of
from data.sources import PLAIN, Example, ReadingConfig, Source, printable
from data.sources.files.addresses import RemoteError

NOTHING: Mapping[str, int] = MappingProxyType({})
_CHUNK = 64  # pictures whose decoding is begun at a time
_MAX_THREADS = 16
_NOT_MIRRORED = "a caption names a side, so no view is mirrored"
_NAMED, _REASONS = 5, 3  # of the skipped pictures
_JUDGED_FROM = 200  # pictures, below which a share of bad ones says little


@dataclass(frozen=True)
class Reading:
    """One picture of a source: its pixels, or the reason why it is unusable."""

    index: int
    example: Example | None
    pixels: UInt8[np.ndarray, "y x 3"] | None
    problem: str = ""
    views: Sequence[UInt8[np.ndarray, "y x 3"]] = ()
    """Further views of the picture; empty unless they are requested."""

    @property
    def name(self) -> str:
        """The picture's name for messages."""
        if self.example is None:
            return f"picture {self.index}"
        member, file = self.example.member, self.example.file
        return f"{file}/{member}" if member and file else member or file


class BadShare:
    """Counts unusable pictures, and raises if their share is too large."""

    def __init__(
        self, source: Source, most: float, seen: int = 0, bad: Mapping[str, int] = NOTHING
    ) -> None:
        self._source, self._most, self._seen, self._bad = source, most, seen, Counter(bad)

    def add(self, reading: Reading) -> None:
        """Count one picture. Raises ValueError once more than `most` of them are unusable."""
        self._seen += 1
        if reading.pixels is not None:
            return
        self._bad[reading.problem] += 1
        count, most = self._bad.total(), self._most
        if most < 1 and self._seen >= _JUDGED_FROM and count > most * self._seen:
            why = ", ".join(f"{n:,} × {problem}" for problem, n in self._bad.most_common(3))
            raise ValueError(
                f"{printable(str(self._source.path))}: {count:,} of the first {self._seen:,} of "
                f"{len(self._source):,} pictures cannot be used ({printable(why)}), more than "
                f"max_bad_fraction {most}; mend them, or use --max_bad_fraction=1"
            )


def read_pictures(
    source: Source,
    image_size: int,
    indices: Sequence[int] | None = None,
    need_captions: bool = False,
    config: ReadingConfig = PLAIN,
    *,
    views: Views = NO_VIEWS,
    ahead: int = _CHUNK,
) -> Iterator[Reading]:
    """Yield the pictures at `indices` (default: all), in this order, without the bytes of their
    files. Threads decode at least `ahead` pictures in advance.

    Raises:
        ValueError: more than config.max_bad_fraction of these pictures are unusable.
    """
    wanted = range(len(source)) if indices is None else indices
    share = BadShare(source, config.max_bad_fraction)

    def read(index: int) -> Reading:
        return _read(source, int(index), image_size, need_captions, config, views)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        readings = _ahead(pool, read, wanted, ahead)
        while (reading := _next(readings)) is not None:
            share.add(reading)
            yield reading


def _next(readings: Iterator[Reading]) -> Reading | None:
    """The next picture; None at the end. Raises OSError if the network failed, because that picture
    is not unusable."""
    try:
        return next(readings, None)
    except RemoteError as error:
        raise OSError(f"{error}; the same command resumes once it can be read") from None


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], Reading], wanted: Sequence[int], least: int
) -> Iterator[Reading]:
    """Yield the readings in order; `least` of them, and up to a chunk more, are read ahead."""
    waiting: deque[Future[Reading]] = deque()
    for start in range(0, len(wanted), _CHUNK):
        waiting.extend(pool.submit(read, index) for index in wanted[start : start + _CHUNK])
        while len(waiting) > least:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(
    source: Source,
    index: int,
    image_size: int,
    need_captions: bool,
    config: ReadingConfig,
    views: Views,
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
        pixels = example.picture(image_size, config)
        width, height = size_of(example.data)
        sizes = {"width": str(width), "height": str(height)}
        columns = {**kept.columns, "width": width, "height": height}
        own_views = views_of(kept, views)
        notes = kept.notes if own_views == views else (*kept.notes, _NOT_MIRRORED)
        attributes = {**kept.attributes, **sizes}
        kept = replace(kept, attributes=attributes, columns=columns, notes=notes)
        return Reading(index, kept, pixels, views=make_views(example, pixels, config, own_views))
    except UnreadablePictureError as error:
        return Reading(index, kept, None, str(error))


def check_same(reading: Reading, example: Mapping[str, object]) -> None:
    """Raise ValueError if the source's picture differs from the example in the records. A file that
    was added or removed moves all later pictures. Keys of a table are row numbers, so the captions
    must agree, too."""
    if reading.example is None:
        return
    captions = [text for text, _ in reading.example.captions[:1]]
    was, now = [example["key"], example["caption"]], [reading.example.key, *captions]
    if was != now:
        raise ValueError(
            f"picture {reading.index} was {was} and is {now} now; the source has changed, "
            f"encode again"
        )


class Notes:
    """Counts of captions that were repaired, by kind, for a whole source."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """The name of the first picture of each kind."""

    def add(self, reading: Reading) -> None:
        """Count the notes of one picture."""
        for note in reading.example.notes if reading.example else ():
            self.counts[note] += 1
            self.first.setdefault(note, reading.name)

    def join(self, counts: Mapping[str, int], first: Mapping[str, str]) -> None:
        """Add the counts of later pictures."""
        self.counts.update(counts)
        self.first = {**first, **self.first}

    def sentences(self) -> list[str]:
        """A sentence for each kind, with the number of pictures and the name of the first."""
        return [
            f"{note}: {count:,} pictures, the first is {printable(self.first[note])}"
            for note, count in sorted(self.counts.items())
        ]


def describe_skipped(
    skipped: Sequence[tuple[str, str]], total: int, reasons: Counter[str] | None = None
) -> str:
    """A sentence about skipped pictures: their number, the first few by name, and the commonest
    reasons of the others with their counts. `reasons` counts the reasons of all skipped pictures;
    default: of those in `skipped`."""
    left = Counter(why for _, why in skipped) if reasons is None else Counter(reasons)
    count, names = left.total(), dict[str, list[str]]()
    for name, why in skipped[:_NAMED]:
        names.setdefault(printable(why), []).append(printable(name))
    named = ", ".join(f"{', '.join(some)} ({why})" for why, some in names.items())
    is_one = len(left) == 1
    left.subtract(why for _, why in skipped[:_NAMED])
    most = [f"{n:,} × {printable(why)}" for why, n in left.most_common(_REASONS) if n > 0]
    others = "for the same reason" if is_one else f"({', '.join(most)})"
    more = f" and {count - _NAMED:,} more {others}" if count > _NAMED else ""
    return f"skipped {count:,} of {total:,} pictures: {named}{more}"


def bad_lines(skipped: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a JSON line for each skipped picture, with its name and the reason."""
    return (json.dumps({"picture": name, "reason": why}) + "\n" for name, why in skipped)


def write_bad_samples(path: Path, skipped: Iterable[tuple[str, str]]) -> None:
    """Write a JSON line for each skipped picture, with its name and the reason."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(bad_lines(skipped))

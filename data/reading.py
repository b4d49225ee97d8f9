"""Decoded pictures of a source, read ahead on threads; unusable ones are told, not fatal."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from data.pictures import UnreadablePictureError
from data.sources import Example, Source

_CHUNK = 256  # pictures decoded ahead of the one that is handed out


@dataclass(frozen=True)
class Reading:
    """One picture of a source: its pixels, or the reason why there are none."""

    index: int
    example: Example | None
    pixels: UInt8[np.ndarray, "y x 3"] | None
    problem: str = ""

    @property
    def name(self) -> str:
        """What a person would look for."""
        if self.example is None:
            return f"picture {self.index}"
        return self.example.member or self.example.file


def read_pictures(
    source: Source,
    image_size: int,
    indices: Sequence[int] | None = None,
    need_captions: bool = False,
) -> Iterator[Reading]:
    """Read the pictures at `indices` (default: all), in that order."""
    wanted = range(len(source)) if indices is None else indices

    def read(index: int) -> Reading:
        return _read(source, int(index), image_size, need_captions)

    with ThreadPoolExecutor() as pool:
        ahead: deque[Iterator[Reading]] = deque()
        for start in range(0, len(wanted), _CHUNK):
            ahead.append(pool.map(read, wanted[start : start + _CHUNK]))
            if len(ahead) == 2:
                yield from ahead.popleft()
        for rest in ahead:
            yield from rest


def _read(source: Source, index: int, image_size: int, need_captions: bool) -> Reading:
    try:
        example = source[index]
    except OSError as error:
        return Reading(index, None, None, str(error))
    if need_captions and not example.captions:
        return Reading(index, example, None, "no caption")
    try:
        return Reading(index, example, example.picture(image_size))
    except UnreadablePictureError as error:
        return Reading(index, example, None, str(error))


def tell_skipped(skipped: Sequence[tuple[str, str]], total: int) -> str:
    """One sentence with the number of skipped pictures and the first few by name."""
    named = ", ".join(f"{name} ({problem})" for name, problem in skipped[:5])
    more = f" and {len(skipped) - 5:,} more" if len(skipped) > 5 else ""
    return f"skipped {len(skipped):,} of {total:,} pictures: {named}{more}"

"""The interface of all sources: a sequence of examples, ordered by their names."""

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data.pictures.decoding import read_picture
from data.sources.config import PLAIN, ReadingConfig

MAX_CAPTION_BYTES = 1 << 20
_NAMED = 3  # of skipped files, by name

Captions = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Example:
    """One picture, as the bytes of its file, with captions and attributes."""

    key: str
    data: bytes
    captions: Captions
    """(text, weight) pairs; weights need not sum to one. Empty without a usable caption."""
    split: str
    """The split that the source names; empty if it names none."""
    attributes: dict[str, str]
    file: str
    """The path of the file, relative to the source."""
    member: str = ""
    """The name inside that file, if it is a tar or a table."""
    notes: tuple[str, ...] = ()
    """Repairs of the captions, such as another encoding."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the source's row: numbers, truth values and texts, lists as JSON."""
    missing: str = ""
    """The reason why there are no bytes; empty if there are some."""

    def picture(
        self, image_size: int, reading: ReadingConfig = PLAIN
    ) -> UInt8[np.ndarray, "y x 3"]:
        """The decoded square. Raises UnreadablePictureError, a ValueError, with the reason."""
        return read_picture(
            self.data, image_size, reading.fit, reading.background, reading.truncated == "keep"
        )


@dataclass
class Unused:
    """Skipped files, counted by reason, with the first names of each."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one file."""
        self.counts[reason] += 1
        if self.counts[reason] <= _NAMED:
            self.names.setdefault(reason, []).append(name)

    def join(self, other: "Unused") -> None:
        """Add the counts of `other`."""
        for reason, names in other.names.items():
            had = self.names.setdefault(reason, [])
            self.names[reason] = had + names[: _NAMED - len(had)]
        self.counts.update(other.counts)

    def sentences(self) -> list[str]:
        """One sentence for each reason: number, reason, names."""
        return [
            f"skipped {count:,} {reason}: {', '.join(map(printable, self.names[reason]))}"
            + (" …" if count > len(self.names[reason]) else "")
            for reason, count in sorted(self.counts.items())
        ]


class Source(ABC):
    """A sized, indexable collection of examples."""

    kind: str
    """The name of its kind in the table of kinds."""
    path: Path
    files: list[Path]
    """All files that it reads."""
    damage: dict[str, str]
    """File → reason, for files that could be read only in part."""
    unused: Unused
    """Skipped files that look as if they belonged to the source."""
    num_captioned: int
    """Pictures that have a caption file or column."""
    num_captions: int | None = None
    """Captions of all pictures; None if they have not been read."""
    about: str
    """A description of the recognised layout."""
    sought: str
    """A description of the places where captions were searched."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def warnings(self) -> list[str]:
        """Sentences about damaged and skipped files."""
        damaged = [printable(f"{name} is damaged: {why}") for name, why in self.damage.items()]
        return damaged + self.unused.sentences()

    def describe(self) -> str:
        """A line with the layout and the numbers of pictures and captions."""
        return describe(self.path, self)


def describe(path: Path, source: Source) -> str:
    """A source's line, under the name of a path."""
    captions = f"{source.num_captioned:,} with captions"
    if source.num_captions is not None:
        captions = f"{source.num_captions:,} captions"
    return f"{printable(str(path))}: {source.about}, {len(source):,} pictures, {captions}"


def counted(count: int, thing: str) -> str:
    """A text such as "1 tar" or "2 tars"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    r"""The text without control characters of terminals. Bytes that are not UTF-8 are escaped, such
    as \udc80."""
    shown = (
        c
        if c.isprintable() or c == " "
        else f"\\x{ord(c):02x}"
        if c < "\x80"
        else f"\\u{ord(c):04x}"
        for c in unicodedata.normalize("NFC", text.encode(errors="backslashreplace").decode())
    )
    return "".join(shown)

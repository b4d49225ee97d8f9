"""Several sources as one, in the order in which they are given."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.sources.base import Example, Source, Unused
from data.sources.files.remote import RemotePath
from data.sources.parts import SourceOfParts


class JoinedSource(SourceOfParts):
    """The examples of the first source, then the second one's, and so on."""

    kind = "joined"

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self.divide(map(len, sources))
        paths = [source.path.absolute() for source in sources]
        is_remote = any(isinstance(path, RemotePath) for path in paths)
        self.path = paths[0] if is_remote else Path(os.path.commonpath(paths))
        self.damage, self.unused = {}, Unused()
        for source in sources:
            self.damage |= source.damage
            self.unused.join(source.unused)
        self.num_captioned = sum(source.num_captioned for source in sources)
        parts = [f"{name_of(source)} ({source.about}, {len(source):,})" for source in sources]
        self.about = f"{len(sources)} sources, {', '.join(parts)}"
        self.sought = "none of them has any"

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The files of all sources."""
        return [file for source in self._sources for file in source.files]

    def example(self, part: int, place: int) -> Example:
        """An example of one source, with the source's name as prefix of its key and file."""
        source = self._sources[part]
        example = source[place]
        name = name_of(source)
        file = f"{name}/{example.file}" if example.file else name
        return replace(example, key=f"{name}/{example.key}", file=file)


def name_of(source: Source) -> str:
    """The last part of a source's path or address."""
    return str(source.path).rstrip("/").rpartition("/")[2]

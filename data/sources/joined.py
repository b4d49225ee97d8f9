"""Several sources as one, in the order in which they are named."""

import bisect
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from data.sources.base import Example, LeftOut, Source


class JoinedSource(Source):
    """The examples of the first, then those of the second, and so on."""

    kind = "joined"

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._ends = list(accumulate(map(len, sources)))
        self.path = Path(os.path.commonpath([one.path.absolute() for one in sources]))
        self.damage, self.left_out = {}, LeftOut()
        for one in sources:
            self.damage |= one.damage
            self.left_out.join(one.left_out)
        self.num_captioned = sum(one.num_captioned for one in sources)
        parts = [f"{one.path.name} ({one.about}, {len(one):,})" for one in sources]
        self.about = f"{len(sources)} sources, {', '.join(parts)}"
        self.sought = "none of them has any"

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """Of all of them."""
        return [file for one in self._sources for file in one.files]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        source = self._sources[number]
        example = source[index - (self._ends[number - 1] if number else 0)]
        name = source.path.name
        file = f"{name}/{example.file}" if example.file else name
        return replace(example, key=f"{name}/{example.key}", file=file)

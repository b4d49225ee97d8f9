"""A source of several parts, one after the other."""

import bisect
from collections.abc import Iterable
from itertools import accumulate

from data.sources.base import Example, Source


class SourceOfParts(Source):
    """A source that finds example i by its part and its place in the part."""

    def divide(self, sizes: Iterable[int]) -> None:
        """Set how many examples each part has."""
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.example(part, index - (self._ends[part - 1] if part else 0))

    def example(self, part: int, place: int) -> Example:
        """The example at a place of a part."""
        raise NotImplementedError

"""A cache of compiled programs for several runs of one process."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 32


class Programs:
    """Programs by key: a cache of at most `most`, least recently used first out."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The program of this key, made by `make()` if the cache does not hold it."""
        program = self._kept.pop(key, None)
        self._kept[key] = make() if program is None else program
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[key]

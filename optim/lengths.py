"""Lengths of a schedule with their unit: "2000 updates", "1M examples"."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["updates", "examples"]
ExamplesAt = Callable[[int], int]
"""Finished updates → examples seen."""
FORM = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kMB]?)\s*(updates?|examples?)?")
SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
MOST = 2**62


@dataclass(frozen=True)
class Length:
    """A whole number of updates or of examples."""

    number: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.number} {self.unit}"


def parse_length(name: str, given: int | str) -> Length:
    """The length in the setting optim.`name`. A number without a unit counts updates.

    Raises:
        ValueError: the setting is not a length.
    """
    match = FORM.fullmatch(str(given).strip())
    number = None if match is None else _whole(match[1].replace("_", ""), SUFFIXES[match[2]])
    if match is None or number is None or number > MOST:
        raise ValueError(
            f"optim.{name} {given!r} is not a length; write a whole number and its unit, such as "
            "'2000 updates' or '1M examples'"
        )
    return Length(number, "examples" if (match[3] or "").startswith("example") else "updates")


def _whole(digits: str, factor: int) -> int | None:
    """digits × factor, such as 1.5 × 1000; None if that is not a whole number."""
    whole, _, fraction = digits.partition(".")
    number, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    return None if rest else number


def from_start(length: Length, unit: Unit, examples_at: ExamplesAt | None) -> int:
    """The length in `unit`, from the start of the run on."""
    return span(length, Length(0, "updates"), unit, examples_at)


def span(length: Length, start: Length, unit: Unit, examples_at: ExamplesAt | None) -> int:
    """The length in `unit`, from `start` on. The sizes of the batches there convert the other
    unit."""
    if length.unit == unit:
        return length.number
    if unit == "updates":
        first = from_start(start, "updates", examples_at)
        return updates_for(_seen(first, examples_at) + length.number, examples_at) - first
    first = from_start(start, "updates", examples_at)
    return _seen(first + length.number, examples_at) - _seen(first, examples_at)


def last_span(length: Length, steps: int, unit: Unit, examples_at: ExamplesAt | None) -> int:
    """The length in `unit`, if it ends with update `steps`."""
    if length.unit == unit:
        return length.number
    end = _seen(steps, examples_at)
    if unit == "updates":
        return steps - updates_for(max(end - length.number, 0) + 1, examples_at) + 1
    return end - _seen(max(steps - length.number, 0), examples_at)


def updates_for(examples: int, examples_at: ExamplesAt | None) -> int:
    """The least number of updates that see at least this many examples."""
    return bisect_left(range(MOST), examples, key=lambda n: _seen(n, examples_at))


def _seen(updates: int, examples_at: ExamplesAt | None) -> int:
    if examples_at is None:
        raise ValueError("lengths in examples are not possible here; use updates")
    return examples_at(updates)

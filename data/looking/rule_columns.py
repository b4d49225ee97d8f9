"""The columns in rules of data.filter: the source's, and those computed from caption and size."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data.sources import printable

Row = Mapping[str, Any]
_RULE = re.compile(r"^\s*([^<>=!~]+?)\s*(<=|>=|!=|!~|=|<|>|~)(.*)$", re.DOTALL)
_NUMERIC: dict[str, Callable[[float, float], bool]] = {
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}


def _aspect(row: Row) -> float | None:
    sides = [float(row.get(name) or 0) for name in ("width", "height")]
    return max(sides) / min(sides) if min(sides) > 0 else None


def script_of(text: str) -> str:
    """The script of most letters, such as latin, cyrillic or cjk; "none" without letters."""
    letters = (unicodedata.name(c, "").partition(" ")[0].lower() for c in text if c.isalpha())
    return next((name for name, _ in Counter(letters).most_common(1)), "none")


DERIVED: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "words": ("words of the caption", lambda row: len(str(row["caption"]).split())),
    "characters": ("characters of the caption", lambda row: len(str(row["caption"]))),
    "script": ("script of most letters of the caption", lambda row: script_of(row["caption"])),
    "aspect": ("longer side of the picture by the shorter", _aspect),
}
"""Computed columns: name → (description, function of an example)."""


def value_of(row: Row, column: str) -> Any:
    """The value of a column in a row; None if the row does not have it."""
    value = row.get(column)
    if value in (None, "") and column in DERIVED:
        return DERIVED[column][1](row)
    return None if value == "" else value


@dataclass(frozen=True)
class Rule:
    """A column, a comparison, and the value to compare with."""

    text: str
    column: str
    sign: str
    operand: str

    def keeps(self, value: object) -> bool:
        """True if an example with this value meets the rule. Raises ValueError if numbers are
        compared and the value is not a number."""
        if self.sign in _NUMERIC:
            return _NUMERIC[self.sign](_number(self.column, value), float(self.operand))
        if self.sign in ("~", "!~"):
            matches = re.search(self.operand, str(value)) is not None
            return matches == (self.sign == "~")
        return _equal(value, self.operand) == (self.sign == "=")


def _number(column: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        shown = printable(str(value)[:40])
        raise ValueError(f"column {column} holds {shown!r}, which is not a number") from None


def _equal(value: Any, operand: str) -> bool:
    try:
        return float(value) == float(operand)
    except (TypeError, ValueError):
        return str(value) == operand


def _is_finite(operand: str) -> bool:
    try:
        return math.isfinite(float(operand))
    except ValueError:
        return False


def parse_rule(text: str) -> Rule:
    """Parse a rule such as `similarity>=0.28`, `license=cc-by`, `url!~shutterstock`.

    Raises:
        ValueError: it has no comparison, or its number or pattern cannot be read.
    """
    match = _RULE.match(text)
    if match is None:
        raise ValueError(
            f"rule {text!r:.80} has none of the signs < <= > >= = != ~ !~, as words>=3 has"
        )
    column, sign, operand = match[1], match[2], match[3].strip()
    if sign == "=" and operand.startswith(("<", ">")):
        raise ValueError(f"rule {text!r:.80}: the sign {operand[0]}= has = behind it")
    if sign == "=":
        operand = operand.removeprefix("=").strip()  # as programs write ==
    if sign in _NUMERIC and not _is_finite(operand):
        raise ValueError(f"rule {text!r:.80}: {operand!r:.40} is not a finite number")
    if sign in ("~", "!~"):
        try:
            re.compile(operand)
        except re.error as error:
            raise ValueError(f"rule {text!r:.80}: {error}") from None
    return Rule(text, column, sign, operand)

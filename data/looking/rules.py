"""Applies rules about columns to token records, for data.filter and for train.py --data.filter."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from common.split_names import TRAIN
from data.looking.rule_columns import DERIVED, Rule, parse_rule, value_of
from data.records import Records
from data.sources import printable
from data.stored.examples import KINDS


@dataclass
class Removed:
    """How many examples a rule checked and removed."""

    rule: str
    looked_at: int
    removed: int = 0
    without_column: int = 0
    """Examples without the rule's column; they are removed, or kept with --missing."""


def against(
    records: Records, rule: Rule, rows: Int64[np.ndarray, " m"], done: Removed, missing: bool
) -> list[int]:
    """The rows that do not meet a rule. With `missing`, rows without its column meet it.

    Raises:
        ValueError: no row has the column; the message lists the columns.
    """
    removed = []
    for row, value in zip(map(int, rows), _values(records, rule.column, rows), strict=True):
        done.without_column += value is None
        if not (missing if value is None else rule.keeps(value)):
            removed.append(row)
    if len(rows) and done.without_column == len(rows):
        names = {*records.examples[int(rows[0])], *records.columns.names, *DERIVED}
        raise ValueError(
            f"rule {printable(rule.text)}: no example has the column {printable(rule.column)}; "
            f"there are {printable(', '.join(sorted(names - {'source_index'})))}"
        )
    return removed


def _values(records: Records, column: str, rows: Int64[np.ndarray, " m"]) -> Iterator[object]:
    """The values of a column in these rows: from the examples' own keys, or from the kept
    columns."""
    if column in KINDS or column not in records.columns.names:
        return (value_of(records.examples[row], column) for row in map(int, rows))
    wanted = np.zeros(len(records), bool)
    wanted[rows] = True
    both = zip(wanted, records.columns.values(column), strict=True)
    values = (value for is_wanted, value in both if is_wanted)
    if column not in DERIVED:
        return (None if value == "" else value for value in values)
    pairs = zip(map(int, rows), values, strict=True)
    return (value_of(records.examples[row] | {column: value}, column) for row, value in pairs)


def format_table(table: list[Removed], left: int) -> list[str]:
    """The table as lines of text."""
    lines = [f"{'rule':40} {'looked at':>12} {'removed':>12} {'no column':>12}"]
    for row in table:
        lines.append(
            f"{row.rule:40} {row.looked_at:12,} {row.removed:12,} {row.without_column:12,}"
        )
    return [*lines, f"{'left':40} {left:12,}"]


def keep_for_training(records: Records, rules: Sequence[str]) -> tuple[Records, list[Removed]]:
    """(records whose training examples meet the rules, the result of each rule). Held-out examples
    stay, so losses stay comparable.

    Raises:
        ValueError: a rule cannot be parsed, its column does not exist, or nothing is left to train
            on.
    """
    kept, table = np.ones(len(records), bool), list[Removed]()
    for rule in map(parse_rule, rules):
        rows = records.rows(TRAIN)
        rows = rows[kept[rows]]
        done = Removed(printable(rule.text), len(rows))
        removed = against(records, rule, rows, done, missing=False)
        done.removed = len(removed)
        kept[removed] = False
        table.append(done)
        if len(removed) == len(rows):
            raise ValueError(
                f"data.filter leaves nothing of {records.folder} to train on: {done.rule} removed "
                f"the last {done.removed:,} pictures"
            )
    return replace(records, kept=kept), table


def describe(parts: Sequence[Records], rules: Sequence[str]) -> str:
    """A text with the rules, and a short hash of the examples that they keep."""
    hashed = hashlib.blake2b(digest_size=4)
    for part in parts:
        hashed.update(b"" if part.kept is None else np.packbits(part.kept).tobytes())
    return f"{', '.join(rules)} ({hashed.hexdigest()})"

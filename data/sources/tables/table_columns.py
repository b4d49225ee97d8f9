"""Finds the columns of a table that hold the pictures' paths and their captions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from data.sources.base import Unused, printable
from data.sources.captions import texts
from data.sources.files.tree import Tree
from data.sources.tables.places import Places
from data.sources.tables.rows import TableFile, first_rows, read_rows
from data.sources.tables.separated import BEYOND, PATH_COLUMNS, Row

_PART, _MOST_PARTS = 100, 1000  # rows that are looked at together, and how often
_ENOUGH = 0.9  # share of numbers that must be pictures if a column of numbers is to name them


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the picture's path and its captions."""

    path: str
    caption: str = ""
    """The named column of captions; empty if known names are tried."""
    by_number: bool = False
    """The path is a number, which ends the picture's name."""
    head: Row | None = None
    """The first line, if it is a row and not the names of columns."""

    def find(self, row: Row, places: Places, beside: str, split: str) -> str | None:
        """The name of a row's picture, or None."""
        path = path_in(row.get(self.path))
        if self.by_number:
            return places.find_number(path)
        return places.find(path, beside, split) if path else None

    def captions(self, row: Row, wanted: str) -> texts.ReadCaptions:
        """The captions of a row."""
        if self.caption and not wanted:
            return texts.weighed(texts.texts_of(row.get(self.caption)))
        return texts.from_columns(row, wanted)

    def rows(self, table: TableFile, unused: Unused) -> Iterator[Row]:
        """All rows of the table; `unused` counts its damaged lines."""
        return chain([self.head] if self.head else [], read_rows(table, unused))


def columns_of(rows: Sequence[Row], places: Places, beside: str, split: str = "") -> Columns | None:
    """The columns of a table, or None if no column names pictures of the source."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != BEYOND))
    is_found = lambda path: places.find(path, beside, split) is not None  # noqa: E731
    num_found, path = _path_column(names, rows, is_found)
    path = path or next((n for n in names if _is_numbered(n, rows, places)), "")
    if not path:
        return None
    is_named = path.lower() in PATH_COLUMNS
    head = None if is_named or not places.find(path, beside, split) else {n: n for n in names}
    others = [name for name in names if name != path and _is_text(rows, name)]
    caption_columns = texts.caption_columns(names)
    caption = "" if caption_columns or len(others) != 1 else others[0]
    return Columns(path, caption, by_number=not num_found, head=head)


def _path_column(
    names: Sequence[str], rows: Sequence[Row], is_found: Callable[[str], bool]
) -> tuple[int, str]:
    """(the number of paths that are found, the column with the most of them). Of equal ones, the
    column with the better known name."""
    order = {name: i for i, name in enumerate(PATH_COLUMNS)}
    best = (0, 0, "")
    for name in names:
        paths = [path for row in rows if (path := path_in(row.get(name)))]
        rank = -order.get(name.lower(), len(order))
        if num_found := sum(map(is_found, paths)):
            best = max(best, (num_found, rank, name))
    return best[0], best[2]


def columns_in(
    table: TableFile, places: Places, beside: str, split: str = ""
) -> tuple[list[Row], Columns | None]:
    """(some rows that name pictures of the source, the table's columns). The first rows may name
    pictures that were never downloaded, so further ones are looked at."""
    rows = read_rows(table, Unused())
    for part in range(_MOST_PARTS):
        try:
            some = list(islice(rows, _PART))
        except ValueError:
            if not part:
                raise
            break  # a damaged line far behind: no table, as it seems
        if not some:
            break
        if (columns := columns_of(some, places, beside, split)) is not None:
            return some, columns
    return [], None


def _is_numbered(name: str, rows: Sequence[Row], places: Places) -> bool:
    """True if a column with a known name holds the numbers at the ends of the pictures' names."""
    names = [places.find_number(path_in(row.get(name))) for row in rows]
    is_known = name.lower() in PATH_COLUMNS
    return is_known and sum(found_name is not None for found_name in names) >= _ENOUGH * len(rows)


def path_in(value: object) -> str:
    """The path that a cell names: a text, a number, or the path of a struct without bytes."""
    if isinstance(value, Mapping):
        value = None if value.get("bytes") else value.get("path")
    return str(value) if isinstance(value, str | int | float) else ""


def _is_text(rows: Sequence[Row], name: str) -> bool:
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, str) and " " in v.strip() for v in values[:20])


def names_of(tree: Tree, tables: Sequence[str]) -> str:
    """The columns of tables, for messages."""
    rows = [row for name in tables[:3] for row in first_rows(TableFile(tree, name), 5)]
    names = dict.fromkeys(name for row in rows for name in row if name != BEYOND)
    return printable(", ".join(list(names)[:20]))


def describe_ambiguous(tree: Tree, names: Sequence[str]) -> str:
    """A sentence about the first table whose names of pictures are those of several; else empty."""
    places = Places(tree)
    for table in names:
        for row in first_rows(TableFile(tree, table), 5):
            for value in row.values():
                if len(alike := places.alike(path_in(value))) > 1:
                    return (
                        f"{printable(table)} says {printable(path_in(value))}, which may be "
                        f"{printable(alike[0])} or {printable(alike[1])}: write the folders into it"
                    )
    return ""

"""Pictures in files, with captions in tables: metadata.csv of Hugging Face's imagefolder, COCO,
Flickr8k and Flickr30k, and any csv, tsv, jsonl, json or parquet of paths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.pictures import MAX_BYTES
from data.sources import texts
from data.sources.base import Captions, Example, Source, Unused, printable
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files import Tree, is_picture
from data.sources.places import Places
from data.sources.rows import BEYOND, Row, TableFile, first_rows, read_rows
from data.sources.splits import split_from, split_of_path, splits_of

PATH_COLUMNS = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image_path", "image"),
    *("image_file", "image_name", "images", "img", "img_path", "key", "image_id", "id", "col0"),
)
_BASE64 = ("/9j/", "iVBORw0KGgo", "data:image/", "UklGR", "R0lGOD")
_ADDRESSES = ("http://", "https://", "s3://", "gs://")


@dataclass
class Entry:
    """One picture in a table: its file, captions, split and attributes."""

    name: str
    captions: list[tuple[str, float]] = field(default_factory=list)
    split: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class ListedSource(Source):
    """Pictures in files, with captions from a table."""

    def __init__(
        self,
        tree: Tree,
        entries: Sequence[Entry],
        kind: str,
        about: str,
        tables: Sequence[str] = (),
        config: ReadingConfig = PLAIN,
        sought: str = "",
    ) -> None:
        self.path, self.kind, self.about, self.config = tree.folder, kind, about, config
        self.damage, self.unused = {}, Unused()
        self.unused.join(tree.unused)
        self._tree, self._entries, self._tables = tree, entries, list(tables)
        self.num_captioned = sum(bool(one.captions) for one in entries)
        self.num_captions = sum(len(one.captions) for one in entries)
        self.sought = sought or "its tables have none for its pictures"

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The tables, then the pictures."""
        return self._tree.paths([*self._tables, *(one.name for one in self._entries)])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        one = self._entries[index]
        captions: Captions = tuple(one.captions)[: texts.MAX_CAPTIONS]
        return Example(
            one.name.rpartition(".")[0] or one.name,
            self._tree.read(one.name, MAX_BYTES),
            captions,
            one.split if self.config.splits == "own" else "",
            one.attributes,
            one.name,
            notes=tuple(one.notes),
            columns=one.columns,
        )


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the picture's path and its captions."""

    path: str
    caption: str
    """The named column of captions; empty if known names are tried."""

    def captions(self, row: Row, wanted: str) -> texts.Found:
        """The captions of a row."""
        if self.caption and not wanted:
            return texts.weighed(texts.texts_of(row.get(self.caption)))
        return texts.from_columns(row, wanted)


def columns_of(rows: Sequence[Row], places: Places, beside: str, split: str = "") -> Columns | None:
    """The columns of a table, or None if no column names pictures of the source."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != BEYOND))
    order = {known: i for i, known in enumerate(PATH_COLUMNS)}
    best = (0, 0, "")
    for name in names:
        said = [_path_in(row.get(name)) for row in rows]
        found = sum(bool(path) and places.find(path, beside, split) is not None for path in said)
        best = max(best, (found, -order.get(name.lower(), len(order)), name))
    if not best[0]:
        return None
    others = [name for name in names if name != best[2] and _is_text(rows, name)]
    known = texts.caption_columns(names)
    return Columns(best[2], "" if known or len(others) != 1 else others[0])


def _path_in(value: object) -> str:
    """The path that a cell names: a text, a number, or the path of a struct without bytes."""
    if isinstance(value, Mapping):
        value = None if value.get("bytes") else value.get("path")
    return str(value) if isinstance(value, str | int) else ""


def _is_text(rows: Sequence[Row], name: str) -> bool:
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, str) and " " in v.strip() for v in values[:20])


def read_tables(
    tree: Tree, places: Places, names: Sequence[str], config: ReadingConfig
) -> tuple[list[Entry], list[str], Unused]:
    """(the pictures in the tables, each once, in order; the tables with these pictures; the skipped
    rows and pictures)."""
    entries: dict[str, Entry] = {}
    used, unused = [], Unused()
    splits = [split_of_path(name, by_file=True) for name in names]
    is_divided = len(set(splits)) > 1
    for name, split in zip(names, splits, strict=True):
        table = TableFile(tree, name, config.caption_encoding)
        columns = columns_of(first_rows(table), places, name, split)
        if columns is None:
            unused.add("tables that name no picture", name)
            continue
        used.append(name)
        note = _encoding_note(table)
        for number, row in enumerate(read_rows(table), start=1):
            said = _path_in(row.get(columns.path))
            found = places.find(said, name, split) if said else None
            if found is None:
                is_several = bool(said) and places.count(said) > 1
                why = "not there" if not is_several else "one of several of that name"
                unused.add(
                    f"rows whose picture is {why}", f"{name} row {number}: {row.get(columns.path)}"
                )
                continue
            if BEYOND in row:
                unused.add(
                    "columns beyond those of the first line (quote captions that hold commas)",
                    f"{name} row {number}: {row[BEYOND]}",
                )
            entry = entries.setdefault(found, Entry(found, notes=list(note)))
            own = split_from(row.get("split")) or (split if is_divided else "")
            row = {k: v for k, v in row.items() if k not in (columns.path, BEYOND)}
            _add(entry, columns.captions(row, config.caption_column), row, own)
    for picture in tree.pictures:
        if used and picture not in entries:
            unused.add("pictures that no table names", picture)
    split_by_folders(entries.values())
    return list(entries.values()), used, unused


def _encoding_note(table: TableFile) -> list[str]:
    encoding = table.text_encoding()
    return [] if encoding in ("", "utf-8-sig") else [f"captions were read as {encoding}"]


def _add(entry: Entry, found: texts.Found, row: Mapping[str, object], split: str) -> None:
    entry.captions += found.captions
    columns, more = texts.columns_from(row)
    entry.columns |= columns
    entry.notes = list(dict.fromkeys([*entry.notes, *found.notes, *more]))
    entry.split = entry.split or split
    entry.attributes |= texts.attributes_from(row)


def split_by_folders(entries: Iterable[Entry]) -> None:
    """Set the splits by folders such as train/ and validation/, if all pictures are in such
    folders."""
    entries = list(entries)
    splits = splits_of([one.name for one in entries], by_file=True)
    for one, split in zip(entries, splits, strict=bool(splits)):
        one.split = one.split or split


def names_of(tree: Tree, tables: Sequence[str]) -> str:
    """The columns of tables, for messages."""
    rows = [row for name in tables[:3] for row in first_rows(TableFile(tree, name), 5)]
    names = dict.fromkeys(name for row in rows for name in row if name != BEYOND)
    return printable(", ".join(list(names)[:20]))


def tell_elsewhere(tree: Tree, names: Sequence[str]) -> str:
    """A sentence about tables whose pictures are not in the source (addresses, paths of other
    folders, base64); empty without such tables."""
    for name in names:
        for row in first_rows(TableFile(tree, name), 5):
            if "encoding" in row:
                return (
                    f"{printable(name)} holds image tokens (column encoding), not pictures; "
                    f"`python -m data.encoded` makes records of them"
                )
            for column, value in row.items():
                if isinstance(value, str) and (why := _elsewhere(column, value)):
                    return f"{printable(name)} {why}"
    return ""


def _elsewhere(column: str, value: str) -> str:
    shown = printable(value[:80])
    if value.lower().startswith(_ADDRESSES):
        return (
            f"names pictures by their addresses, such as {shown}: download them, for example with "
            f"img2dataset"
        )
    if is_picture(value.replace("\\", "/")):
        return (
            f"names pictures that are not beside it, such as {shown}: say where they are with "
            f"--pictures=FOLDER"
        )
    if value.startswith(_BASE64):
        return f"holds pictures as base64 text in column {printable(column)}: write them to files"
    return ""

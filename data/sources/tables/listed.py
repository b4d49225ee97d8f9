"""Pictures in files, with captions in tables: metadata.csv of Hugging Face's imagefolder, COCO,
Flickr8k and Flickr30k, and any csv, tsv, jsonl, json or parquet of paths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.pictures.decoding import MAX_BYTES
from data.sources.base import Captions, Example, Source, Unused, printable
from data.sources.captions import texts
from data.sources.captions.splits import split_from, split_of_path, splits_of
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files.tree import Tree, is_picture
from data.sources.tables.places import Places
from data.sources.tables.rows import TableFile, first_rows
from data.sources.tables.separated import BEYOND, Row
from data.sources.tables.table_columns import Columns, columns_in, path_in

_BASE64 = ("/9j/", "iVBORw0KGgo", "data:image/", "UklGR", "R0lGOD")
_FEWEST_PIXELS = 48
"""Shorter lists of numbers are boxes or scores: 48 numbers are 4 × 4 pixels."""
ADDRESSES = ("http://", "https://", "s3://", "gs://")


@dataclass
class Entry:
    """One picture in a table: its file, captions, split and attributes."""

    name: str
    captions: list[tuple[str, float]] = field(default_factory=list)
    split: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    beside: int | None = None
    """Its place in the source of captions beside pictures, if no table has captions for it."""


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
        beside: Source | None = None,
    ) -> None:
        self.path, self.kind, self.about, self.config = tree.folder, kind, about, config
        self.damage, self.unused = {}, Unused()
        self.unused.join(tree.unused)
        self._tree, self._entries, self._tables = tree, entries, list(tables)
        self._beside = beside
        self.num_captioned = sum(
            bool(entry.captions) or entry.beside is not None for entry in entries
        )
        self.num_captions = (
            sum(len(entry.captions) for entry in entries) if beside is None else None
        )
        self.sought = "its tables have none for its pictures"

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The tables, then the pictures."""
        named = self._tree.paths([*self._tables, *(entry.name for entry in self._entries)])
        return list(dict.fromkeys([*named, *(self._beside.files if self._beside else ())]))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        entry = self._entries[index]
        if self._beside is not None and entry.beside is not None:
            return self._beside[entry.beside]
        captions: Captions = tuple(entry.captions)[: texts.MAX_CAPTIONS]
        return Example(
            entry.name.rpartition(".")[0] or entry.name,
            self._tree.read(entry.name, MAX_BYTES),
            captions,
            entry.split if self.config.splits == "own" else "",
            entry.attributes,
            entry.name,
            notes=tuple(entry.notes),
            columns=entry.columns,
        )


@dataclass
class Tables:
    """The pictures in tables, each once, in order."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """Name of the picture → its row."""
    used: list[str] = field(default_factory=list)
    """The tables with these pictures."""
    unused: Unused = field(default_factory=Unused)
    """Skipped rows and tables."""
    guessed: str = ""
    """Columns of captions whose names are not among the known ones."""


def read_tables(tree: Tree, places: Places, names: Sequence[str], config: ReadingConfig) -> Tables:
    """The pictures in these tables."""
    tables = Tables()
    splits = [split_of_path(name, by_file=True) for name in names]
    is_divided = len(set(splits)) > 1
    for name, split in zip(names, splits, strict=True):
        table = TableFile(tree, name, config.caption_encoding)
        some, columns = columns_in(table, places, name, split)
        if columns is None:
            tables.unused.add("tables that name no picture", name)
            continue
        tables.used.append(name)
        tables.guessed = tables.guessed or _guessed(columns, some, config)
        note = _notes(table, columns)
        for number, row in enumerate(columns.rows(table, tables.unused), start=1):
            picture = columns.find(row, places, name, split)
            where = f"{name} row {number}"
            if picture is None:
                path = path_in(row.get(columns.path))
                why = "one of several of that name" if len(places.alike(path)) > 1 else "not there"
                tables.unused.add(
                    f"rows whose picture is {why}", f"{where}: {row.get(columns.path)}"
                )
                continue
            if BEYOND in row:
                tables.unused.add(
                    "columns beyond those of the first line (quote captions that hold commas)",
                    f"{where}: {row[BEYOND]}",
                )
            entry = tables.entries.setdefault(picture, Entry(picture, notes=list(note)))
            split_of_row = split_from(row.get("split")) or (split if is_divided else "")
            row = {k: v for k, v in row.items() if k not in (columns.path, BEYOND)}
            _add(entry, columns.captions(row, config.caption_column), row, split_of_row)
    split_by_folders(tables.entries.values())
    return tables


def _guessed(columns: Columns, rows: Sequence[Row], config: ReadingConfig) -> str:
    if config.caption_column or columns.head:
        return ""
    names = [name for row in rows[:5] for name in row if name != BEYOND]
    groups = texts.caption_columns(dict.fromkeys(names))
    guessed = [columns.caption] if columns.caption else groups[0] if groups else []
    return ", ".join(n for n in guessed if not n.startswith("col") and not texts.is_known(n))


def _notes(table: TableFile, columns: Columns) -> list[str]:
    encoding = table.reported_encoding()
    notes = [f"captions were read as {encoding}"] if encoding else []
    if columns.by_number:
        notes.append(f"pictures were found by the numbers in column {printable(columns.path)}")
    return notes


def _add(entry: Entry, result: texts.ReadCaptions, row: Mapping[str, object], split: str) -> None:
    entry.captions += result.captions
    columns, more = texts.columns_from(row)
    entry.columns |= columns
    entry.notes = list(dict.fromkeys([*entry.notes, *result.notes, *more]))
    entry.split = entry.split or split
    entry.attributes |= texts.attributes_from(row)


def split_by_folders(entries: Iterable[Entry]) -> None:
    """Set the splits by folders such as train/ and validation/, if all pictures are in such
    folders."""
    entries = list(entries)
    splits = splits_of([entry.name for entry in entries], by_file=True)
    for entry, split in zip(entries, splits, strict=bool(splits)):
        entry.split = entry.split or split


def describe_unreachable(tree: Tree, names: Sequence[str]) -> str:
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
                if _is_pixels(value):
                    return (
                        f"{printable(name)} holds the pixels of pictures as numbers in column "
                        f"{printable(column)}: write them as PNG or JPEG files, or such a file's "
                        "bytes into the column"
                    )
    return ""


def _is_pixels(value: object) -> bool:
    """True if a cell is a long list of numbers, or of such lists."""
    count = 1
    while isinstance(value, list) and value:
        count *= len(value)
        value = value[0]
    return count >= _FEWEST_PIXELS and isinstance(value, int | float)


def _elsewhere(column: str, value: str) -> str:
    shown = printable(value[:80])
    if value.lower().startswith(ADDRESSES):
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

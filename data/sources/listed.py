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
from data.sources.files import Tree
from data.sources.folder import read_head
from data.sources.places import Places
from data.sources.rows import BEYOND, Row, first_rows, read_rows
from data.sources.splits import is_split, split_from

PATH_COLUMNS = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image_path", "image"),
    *("image_file", "image_name", "images", "img", "img_path", "key", "image_id", "id", "col0"),
)
_ADDRESSES = ("http://", "https://", "s3://", "gs://")


@dataclass
class Entry:
    """One picture in a table: its file, captions, split and attributes."""

    name: str
    captions: list[tuple[str, float]] = field(default_factory=list)
    split: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class ListedSource(Source):
    """Pictures in files whose captions are known already."""

    def __init__(
        self,
        tree: Tree,
        entries: Sequence[Entry],
        kind: str,
        about: str,
        tables: Sequence[Path] = (),
        config: ReadingConfig = PLAIN,
    ) -> None:
        self.path, self.kind, self.about, self.config = tree.folder, kind, about, config
        self.damage, self.unused = {}, Unused()
        self.unused.join(tree.unused)
        self._tree, self._entries, self._tables = tree, entries, list(tables)
        self.num_captioned = sum(bool(one.captions) for one in entries)
        self.num_captions = sum(len(one.captions) for one in entries)
        self.sought = "its tables have none for its pictures"

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The tables, then the pictures."""
        return self._tables + [self._tree.path(one.name) for one in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        one = self._entries[index]
        captions: Captions = tuple(one.captions)[: texts.MAX_CAPTIONS]
        return Example(
            one.name.rpartition(".")[0] or one.name,
            read_head(self._tree.path(one.name), MAX_BYTES),
            captions,
            one.split if self.config.splits == "own" else "",
            one.attributes,
            one.name,
            notes=tuple(one.notes),
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


def columns_of(rows: Sequence[Row], places: Places, beside: str) -> Columns | None:
    """The columns of a table, or None if no column names pictures of the source."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != BEYOND))
    order = {known: i for i, known in enumerate(PATH_COLUMNS)}
    best = (0, 0, "")
    for name in names:
        said = [row.get(name) for row in rows]
        found = sum(
            isinstance(value, str | int) and places.find(str(value), beside) is not None
            for value in said
        )
        best = max(best, (found, -order.get(name.lower(), len(order)), name))
    if not best[0]:
        return None
    others = [name for name in names if name != best[2] and _is_text(rows, name)]
    known = texts.caption_columns(names)
    return Columns(best[2], "" if known or len(others) != 1 else others[0])


def _is_text(rows: Sequence[Row], name: str) -> bool:
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, str) and " " in v.strip() for v in values[:20])


def read_tables(
    tree: Tree, places: Places, names: Sequence[str], config: ReadingConfig
) -> tuple[list[Entry], list[str], Unused]:
    """The pictures in the tables, each once, in the tables' order; the tables that named them; and
    the rows and pictures that are skipped."""
    entries: dict[str, Entry] = {}
    used, unused = [], Unused()
    splits = [_split_of_path(name) for name in names]
    is_divided = len(set(splits)) > 1
    for name, split in zip(names, splits, strict=True):
        columns = columns_of(first_rows(tree.path(name)), places, name)
        if columns is None:
            unused.add("tables that name no picture", name)
            continue
        used.append(name)
        for number, row in enumerate(read_rows(tree.path(name)), start=1):
            said = row.get(columns.path)
            found = places.find(str(said), name, split) if isinstance(said, str | int) else None
            if found is None:
                unused.add("rows whose picture is not there", f"{name} row {number}: {said}")
                continue
            if BEYOND in row:
                unused.add(
                    "columns beyond those of the first line (quote captions that hold commas)",
                    f"{name} row {number}: {row[BEYOND]}",
                )
            entry = entries.setdefault(found, Entry(found))
            own = split_from(row.get("split")) or (split if is_divided else "")
            _add(entry, columns.captions(row, config.caption_column), row, own)
    for picture in tree.pictures:
        if used and picture not in entries:
            unused.add("pictures that no table names", picture)
    split_by_folders(entries.values())
    return list(entries.values()), used, unused


def _add(entry: Entry, found: texts.Found, row: Mapping[str, Any], split: str) -> None:
    entry.captions += found.captions
    entry.notes = list(dict.fromkeys([*entry.notes, *found.notes]))
    entry.split = entry.split or split
    entry.attributes |= texts.attributes_from(row)


def split_by_folders(entries: Iterable[Entry]) -> None:
    """Take train/ and validation/ folders as splits, if all pictures are in such folders."""
    entries = list(entries)
    splits = [_split_of_path(one.name) for one in entries]
    if all(splits) and len(set(splits)) > 1:
        for one, split in zip(entries, splits, strict=True):
            one.split = one.split or split


def _split_of_path(name: str) -> str:
    """The split in the name of a folder or file: train2017/, captions_val2017.json."""
    *folders, last = name.split("/")
    words = last.rpartition(".")[0].replace("-", "_").split("_")
    found = [split_from(part) for part in (*folders, *words) if is_split(part)]
    return found[0] if found else ""


def tell_addresses(tree: Tree, names: Sequence[str]) -> str:
    """A sentence about tables that name pictures by addresses; empty if there are none."""
    for name in names:
        for row in first_rows(tree.path(name), 5):
            for value in row.values():
                if isinstance(value, str) and value.lower().startswith(_ADDRESSES):
                    return (
                        f"{printable(name)} names pictures by their addresses, such as "
                        f"{printable(value)[:80]}: download them, for example with img2dataset"
                    )
    return ""

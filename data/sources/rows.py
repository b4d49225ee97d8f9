"""Rows of tables in text or parquet: csv, tsv, JSON lines, JSON, parquet."""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any

from data.sources import texts
from data.sources.base import printable
from data.sources.columns import check_group
from data.sources.encodings import decode, encoding_of
from data.sources.files import Tree, ending_of, is_picture

Row = dict[str, Any]
BEYOND = "\0beyond"
"""The key of cells beyond the named columns."""
_LOOKED_AT = 1 << 20  # bytes that encoding and separator are found from
_MAX_FIELD = 1 << 20
_MAX_LINE = 1 << 24
_MAX_JSON = 2 << 30
_BATCH = 1024


@dataclass(frozen=True)
class TableFile:
    """A table among the files of a source."""

    tree: Tree
    name: str
    encoding: str = ""
    """The encoding, if it is neither UTF-8 nor UTF-16; empty = guessed."""

    def __str__(self) -> str:
        """The table's name in messages."""
        return printable(str(self.tree.folder / self.name))

    def read(self, most: int) -> bytes:
        """Its bytes. Raises ValueError if there are more of them."""
        if self.tree.size(self.name) > most:
            raise ValueError(f"{self} has more than {most:,} bytes")
        return self.tree.read(self.name, most)

    def text_encoding(self) -> str:
        """How the text is read; empty for parquet."""
        if ending_of(self.name) == "parquet":
            return ""
        return encoding_of(self.tree.read(self.name, _LOOKED_AT - 1), self.encoding)

    def text(self) -> io.TextIOWrapper:
        """Its text, to read line by line."""
        encoding = self.text_encoding()
        opened: Any = self.tree.open(self.name)
        return io.TextIOWrapper(opened, encoding=encoding, errors="replace", newline="")


def read_rows(table: TableFile) -> Iterator[Row]:
    """The rows of a table, by the ending of its name.

    Raises:
        ValueError: the file is not such a table; the message names file and line.
    """
    ending = ending_of(table.name)
    try:
        if ending == "parquet":
            yield from _parquet(table)
        elif ending in ("jsonl", "ndjson"):
            yield from _json_lines(table)
        elif ending == "json":
            yield from _json(table)
        else:
            yield from _separated(table)
    except (OSError, csv.Error, RecursionError) as error:
        raise ValueError(f"{table}: {printable(str(error))}") from None


def _lines(file: io.TextIOWrapper, table: TableFile) -> Iterator[str]:
    """Yield the lines of a file, each of bounded length."""
    for number in count(1):
        line = file.readline(_MAX_LINE)
        if not line:
            return
        if len(line) == _MAX_LINE:
            raise ValueError(f"{table}, line {number:,} has more than {_MAX_LINE:,} characters")
        yield line


def _json_lines(table: TableFile) -> Iterator[Row]:
    with table.text() as file:
        for number, line in enumerate(_lines(file, table), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{table}, line {number:,}: {error}") from None
            yield row if isinstance(row, dict) else {}  # which names no picture


def _json(table: TableFile) -> Iterator[Row]:
    """The rows of a list of objects, of the first such list in an object, or of COCO's annotations
    joined with its images."""
    try:
        content = json.loads(decode(table.read(_MAX_JSON), table.encoding)[0])
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    if isinstance(content, dict) and is_coco(content):
        yield from _coco(content)
        return
    lists = content.values() if isinstance(content, dict) else [content]
    for one in lists:
        if isinstance(one, list) and any(isinstance(row, dict) for row in one):
            yield from (row for row in one if isinstance(row, dict))
            return
    if isinstance(content, dict):  # {"1.jpg": "a bird", "2.jpg": ["a cat", "one cat"]}
        yield from ({"file_name": name, "captions": said} for name, said in content.items())


def is_coco(content: dict[str, Any]) -> bool:
    """True if an object is COCO's: it has a list of images and one of captions."""
    images, said = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(said, list):
        return False
    return any(isinstance(one, dict) and "caption" in one for one in said)


def _coco(content: dict[str, Any]) -> Iterator[Row]:
    captions: dict[Any, list[Any]] = {}
    for one in content["annotations"]:
        if isinstance(one, dict) and isinstance(one.get("image_id"), int | str):
            captions.setdefault(one["image_id"], []).append(one.get("caption"))
    for image in content["images"]:
        if isinstance(image, dict) and isinstance(image.get("id"), int | str):
            yield {"file_name": image.get("file_name"), "captions": captions.get(image["id"], [])}


def _separated(table: TableFile) -> Iterator[Row]:
    """The rows of a text separated by tabs, |, semicolons or commas, whichever the first line has.
    Names of columns come from the first line, or are col0, col1 … if that is a row already."""
    csv.field_size_limit(_MAX_FIELD)
    with table.text() as file:
        lines = (line.replace("\0", "") for line in _lines(file, table))
        first = next(lines, "")
        separator = next((s for s in "\t|;" if s in first), ",")
        is_quoted = separator in ",;" or '"' in first
        rows = _cells(chain([first], lines), separator, is_quoted)
        names = [name.strip() for name in next(rows, [])]
        if len(names) < 2:
            return
        if any("." in name or "/" in name for name in names):
            rows = chain([names], rows)
            names = [f"col{i}" for i in range(len(names))]
        for row in rows:
            if row:
                yield _named(names, row, separator)


def _cells(lines: Iterator[str], separator: str, is_quoted: bool) -> Iterator[list[str]]:
    """Yield the cells of each row. An unclosed quote is an ordinary character: its row ends before
    the next line that has the same number of cells and a picture's name in the same one."""
    plain = partial(csv.reader, delimiter=separator, quoting=csv.QUOTE_NONE)
    quoted = partial(csv.reader, delimiter=separator)
    if not is_quoted:
        yield from plain(lines)
        return
    width, places = 0, set[int]()

    def is_row(line: str) -> bool:
        alone = next(quoted([line]), [])
        return len(alone) >= width and bool(places & _places_of_pictures(alone))

    def record(taken: list[str]) -> Iterator[str]:
        yield taken[0]
        for line in lines:
            if is_row(line):
                waiting.append(line)
                return
            taken.append(line)
            yield line

    waiting = deque[str]()
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        places = places or _places_of_pictures(next(plain([line]), []))
        taken = [line]
        row = next(quoted(record(taken)), [])
        if waiting:
            row = next(plain([" ".join(part.strip("\r\n") for part in taken)]), [])
        width = width or len(row)
        yield row


def _places_of_pictures(row: list[str]) -> set[int]:
    return {place for place, cell in enumerate(row) if is_picture(cell.strip())}


def _named(names: list[str], row: list[str], separator: str) -> Row:
    """A row by the names of its columns. Captions in the last column may hold the separator."""
    beyond = row[len(names) :]
    if beyond and texts.caption_columns(names[-1:]):
        row = [*row[: len(names) - 1], separator.join(row[len(names) - 1 :])]
        beyond = []
    named = {n: v.strip() for n, v in zip(names, row, strict=False)}
    return {**named, BEYOND: separator.join(beyond)} if beyond else named


def _parquet(table: TableFile) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with table.tree.open(table.name) as opened, pq.ParquetFile(opened) as file:
            for i in range(file.num_row_groups):
                check_group(table, file.metadata.row_group(i).total_byte_size)
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{table} is not a readable parquet file: {printable(why)}") from None


def first_rows(table: TableFile, most: int = 100) -> list[Row]:
    """Some rows, to recognise the table."""
    return list(islice(read_rows(table), most))

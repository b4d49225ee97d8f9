"""Rows of tables in text or parquet: csv, tsv, JSON lines, JSON, parquet."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from data.sources.base import Unused, printable
from data.sources.captions import texts
from data.sources.captions.encodings import MENDED, MENDS, decode, encoding_of, is_damaged_utf8
from data.sources.files.tree import Tree, ending_of
from data.sources.tables import json_rows, separated
from data.sources.tables.columns import cell, check_group
from data.sources.tables.separated import Row

_LOOKED_AT = 1 << 20  # bytes that encoding and separator are found from
_MAX_LINE = 1 << 24
_MAX_JSON = 2 << 30
_BATCH = 1024
_DAMAGED = "damaged lines"


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
        """The encoding of the text; empty for parquet."""
        if ending_of(self.name) == "parquet":
            return ""
        return encoding_of(self._head(), self.encoding)

    def reported_encoding(self) -> str:
        """The encoding if it is worth a note: any but whole UTF-8."""
        encoding = self.text_encoding()
        if encoding != "utf-8-sig":
            return encoding
        lines = self._head().rpartition(b"\n")
        return MENDED if is_damaged_utf8(lines[0] or lines[2]) else ""

    def _head(self) -> bytes:
        return self.tree.read(self.name, _LOOKED_AT - 1)

    def text(self) -> io.TextIOWrapper:
        """Its text, to read line by line."""
        encoding = self.text_encoding()
        errors = MENDS if encoding == "utf-8-sig" else "replace"
        opened: Any = self.tree.open(self.name)
        return io.TextIOWrapper(opened, encoding=encoding, errors=errors, newline="")


def read_rows(table: TableFile, unused: Unused | None = None) -> Iterator[Row]:
    """The rows of a table, by the ending of its name. `unused` counts damaged JSON lines; without
    it, the first one raises.

    Raises:
        ValueError: the file is not such a table, most of its lines are damaged, or one is and
            `unused` is None; the message names file and line.
    """
    ending = ending_of(table.name)
    try:
        if ending == "parquet":
            yield from _parquet(table)
        elif ending in ("jsonl", "ndjson"):
            yield from _json_lines(table, unused)
        elif ending == "json":
            yield from _json(table, unused)
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


def _json_lines(table: TableFile, unused: Unused | None) -> Iterator[Row]:
    good, damaged = 0, list[str]()
    with table.text() as file:
        for number, line in enumerate(_lines(file, table), start=1):
            if not line.strip():
                continue
            try:
                row = texts.parse_json(line)
            except ValueError as error:
                if number == 1 and line[0] in "[{" and not _is_second_json(table):
                    yield from _json_values(table)  # JSON of several lines, or in one line
                    return
                damaged.append(f"line {number:,}: {_why(error)}")
                if unused is None:
                    break
                unused.add(_DAMAGED, f"{table.name} {damaged[-1]}")
                continue
            good += 1
            yield from json_rows.of_line(row)
    if damaged and (unused is None or len(damaged) > good):
        raise ValueError(f"{table}, {damaged[0]}; mend the line, or remove it")


def _is_second_json(table: TableFile) -> bool:
    """True if the second line is a JSON object."""
    with table.text() as file:
        _, line = file.readline(_MAX_LINE), file.readline(_MAX_LINE)
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _why(error: ValueError) -> str:
    """The reason without the position: within one line, it would name line 1."""
    where = f" (character {error.colno:,})" if isinstance(error, json.JSONDecodeError) else ""
    return f"{getattr(error, 'msg', error)}{where}"


def _json(table: TableFile, unused: Unused | None) -> Iterator[Row]:
    try:
        content = _read_json(table)
    except ValueError as error:
        if "Extra data" not in str(error):
            raise
        yield from _json_lines(table, unused)  # JSON lines, whatever its name
        return
    yield from json_rows.of_file(content)


def _json_values(table: TableFile) -> Iterator[Row]:
    """The rows of a JSON file, or of objects that blanks, line ends or commas separate."""
    text = decode(table.read(_MAX_JSON), table.encoding)[0].strip()
    start, values = 0, list[Any]()
    while start < len(text):
        try:
            value, start = texts.DECODER.raw_decode(text, start)
        except ValueError as error:
            raise ValueError(f"{table}: {error}") from None
        values.append(value)
        while start < len(text) and (text[start].isspace() or text[start] == ","):
            start += 1
    if len(values) == 1:
        yield from json_rows.of_file(values[0])
    else:
        for value in values:
            yield from json_rows.of_line(value)


def _read_json(table: TableFile) -> Any:
    try:
        return texts.parse_json(decode(table.read(_MAX_JSON), table.encoding)[0])
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None


def _separated(table: TableFile) -> Iterator[Row]:
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(_lines(file, table), start=1):  # noqa: B007
            yield line

    with table.text() as file:
        try:
            yield from separated.rows_of(lines())
        except csv.Error as error:
            most = (
                f"a cell has more than {separated.MAX_CELL:,} characters; shorten it, or remove it"
            )
            why = most if "limit" in str(error) else error
            raise ValueError(f"{table}, line {number:,}: {why}") from None


def _parquet(table: TableFile) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with table.tree.open(table.name) as opened, pq.ParquetFile(opened) as file:
            for i in range(file.num_row_groups):
                check_group(table, file.metadata.row_group(i).total_byte_size)
            for batch in file.iter_batches(_BATCH):
                yield from _rows_in(batch)
    except pa.ArrowException as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{table} is not a readable parquet file: {printable(why)}") from None


def _rows_in(batch: Any) -> list[Row]:
    """The rows of a batch, also if Python has no value for a cell, such as a time after 9999."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, LookupError, ImportError):
        columns = [[cell(value) for value in column] for column in batch.columns]
        return [
            dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)
        ]


def first_rows(table: TableFile, most: int) -> list[Row]:
    """The first rows, to describe the table."""
    return list(islice(read_rows(table, Unused()), most))

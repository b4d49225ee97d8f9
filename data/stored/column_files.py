"""The columns of the source in token records: Parquet files of 65,536 rows in the order of the
examples, read one column at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data.looking.rule_columns import Row
from data.sources import printable

FOLDER = "columns"
ROWS = 1 << 16
"""Rows of a file; the shards of the encoding do not change it."""


class ColumnWriter:
    """Writes a row for each example, file by file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._rows: list[Row] = []
        self._written = 0

    @property
    def num_rows(self) -> int:
        """The rows so far."""
        return self._written * ROWS + len(self._rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._rows += rows
        while len(self._rows) >= ROWS:
            self._write(self._rows[:ROWS])
            self._rows = self._rows[ROWS:]

    def close(self) -> None:
        """Write the rest."""
        if self._rows:
            self._write(self._rows)
            self._rows = []

    def _write(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._folder.mkdir(exist_ok=True)
        names = sorted({name for row in rows for name in row})
        arrays = {_safe(name): _array([row.get(name) for row in rows]) for name in names}
        # A row without any column counts as well.
        table = pa.table(arrays) if arrays else pa.table({"": pa.nulls(len(rows), pa.string())})
        path = self._folder / f"{self._written:06}.parquet"
        with path.open("wb") as file:  # pyarrow opens only names that are UTF-8
            pq.write_table(table, file, compression="zstd")
        self._written += 1


def _safe(text: str) -> str:
    """The text without lone surrogates, which Parquet cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _metadata(path: Path) -> Any:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        return pq.read_metadata(file)


def _array(values: Sequence[Any]) -> Any:
    """A column of numbers if all values are numbers, else of texts."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    is_small = all(-(1 << 63) <= v < 1 << 63 for v in values if isinstance(v, int))
    if kinds == {int} and is_small:
        return pa.array(values, pa.int64())
    if float in kinds and kinds <= {int, float} and is_small:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else _safe(str(v)) for v in values], pa.string())


class ColumnFiles:
    """The columns of a folder of records; it may have none."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder / FOLDER, count

    @cached_property
    def _files(self) -> list[Any]:
        """The files' metadata, in order. Raises ValueError unless their rows are the examples."""
        import pyarrow as pa

        paths = sorted(self._folder.glob("*.parquet"))
        try:
            files = [(path, _metadata(path)) for path in paths]
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(" ".join(str(error).split())) from None
        rows = sum(about.num_rows for _, about in files)
        if files and rows != self._count:
            raise self._damaged(f"it has {rows:,} rows for {self._count:,} pictures")
        return files

    def _damaged(self, why: str) -> ValueError:
        return ValueError(f"{self._folder} is damaged: {printable(why)}; encode again")

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that any file has."""
        return frozenset(
            name for _, about in self._files for name in about.schema.to_arrow_schema().names
        ) - {""}

    def check(self) -> None:
        """Read all columns. Raises ValueError if a file is damaged."""
        for path, about in self._files:
            for name in about.schema.to_arrow_schema().names:
                self._read(path, [name])

    def values(self, name: str) -> Iterator[Any]:
        """Yield the value of a column for each example; None if the example has none."""
        for path, about in self._files:
            if name in about.schema.to_arrow_schema().names:
                yield from self._read(path, [name]).column(0).to_pylist()
            else:
                yield from (None for _ in range(about.num_rows))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the columns of each example that have a value."""
        for path, about in self._files:
            names = [n for n in about.schema.to_arrow_schema().names if n]
            for batch in self._read(path, names).to_batches(4096) if names else ():
                for row in batch.to_pylist():
                    yield {k: v for k, v in row.items() if v is not None}
            if not names:
                yield from ({} for _ in range(about.num_rows))

    def _read(self, path: Path, names: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as opened, pq.ParquetFile(opened) as file:
                return file.read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(" ".join(str(error).split())) from None

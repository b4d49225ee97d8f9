"""Parquet files with the bytes of pictures in a column: Hugging Face's shards, img2dataset's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.sources.base import printable
from data.sources.captions.splits import is_split, split_from
from data.sources.tables.columns import Table, _holds_bytes, check_group


class ParquetTable(Table):
    """The row groups of parquet files with the same columns."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.files, self.labels, self.damage = path, list(files), {}, {}
        self.schema, self.counts, self.splits, self._groups = None, [], [], []
        first, names = files[0], [_split_of_file(file) for file in files]
        is_divided = len(set(names)) > 1
        for file, split in zip(files, names, strict=True):
            try:
                with file.open("rb") as bytes_, pq.ParquetFile(bytes_) as opened:
                    about, schema = opened.metadata, opened.schema_arrow
            except (pa.ArrowException, OSError) as error:
                self.damage[file.name] = _why(error)
                continue
            if self.schema is not None and sorted(schema.names) != sorted(self.schema.names):
                raise ValueError(f"{file} has other columns than {first.name}")
            if self.schema is None:
                self.schema, first = schema, file
            for i in range(about.num_row_groups):
                check_group(file, about.row_group(i).total_byte_size)
                self._groups.append((file, i))
                self.counts.append(about.row_group(i).num_rows)
                self.splits.append(split if is_divided else "")
        if self.schema is None:
            raise _unreadable(files[0], self.damage[files[0].name])
        self.labels = _labels(self.schema)

    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self._groups[group]
        try:
            with file.open("rb") as bytes_, pq.ParquetFile(bytes_) as opened:
                return opened.read_row_group(number, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, _why(error)) from None


def holds_pictures(paths: Sequence[Path]) -> bool:
    """True if the first parquet file that is readable has a column of bytes. Raises ValueError if
    none of `paths` is readable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    why = ""
    for path in paths:
        try:
            with path.open("rb") as opened:
                schema = pq.read_schema(opened)
            return any(_holds_bytes(field.type) for field in schema)
        except (pa.ArrowException, OSError) as error:
            why = why or _why(error)
    raise _unreadable(paths[0], why)


def _why(error: Exception) -> str:
    return printable(" ".join(str(error).split()))


def _unreadable(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is not a readable parquet file: {why}")


def _split_of_file(path: Path) -> str:
    """The split in a name such as Hugging Face's train-00000-of-00001.parquet."""
    words = path.stem.replace("_", "-").split("-")
    return split_from(words[0]) if is_split(words[0]) else ""


def _labels(schema: Any) -> dict[str, list[str]]:
    """Class names, as `datasets` writes them into the schema's metadata."""
    import json

    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}

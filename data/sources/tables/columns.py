"""Tables with pictures in them: folders of `datasets.save_to_disk`, and parquet files.

They are read with pyarrow, and only the needed columns. `datasets` would decode every picture
column, which can start Ghostscript, open paths or download addresses.
"""

import bisect
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from data.pictures.decoding import MAX_BYTES
from data.sources.base import Example, Source, Unused, printable
from data.sources.captions import texts
from data.sources.captions.names import in_template, words_in_name
from data.sources.captions.splits import split_from
from data.sources.config import PLAIN, ReadingConfig
from data.sources.tables.places import Places

IMAGE_COLUMNS = (
    *("image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "pixel_values"),
    *("image_bytes", "bytes", "data"),
)
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
_MAX_GROUP = 4 << 30
_MOST_DEPTH = 4  # of lists and structs in a column
_LOCK = threading.Lock()


class Table(ABC):
    """Rows in groups that are read one at a time. It is hashable, so that groups can be cached."""

    path: Path
    files: list[Path]
    schema: Any
    counts: list[int]
    """Rows of each group."""
    splits: list[str]
    """The split of each group, by its file's name; empty if the name is not a split's."""
    labels: dict[str, list[str]]
    """Class names of the numbers in a column of classes."""
    damage: dict[str, str]
    """File → why it is not read, of those that are damaged."""

    @abstractmethod
    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        """A group's columns, as a pyarrow table that has been validated."""


@lru_cache(maxsize=4)
def _load(table: Table, group: int, columns: tuple[str, ...]) -> Any:
    return table.load(group, columns)


class ColumnSource(Source):
    """A table with a column of pictures and one of captions."""

    def __init__(
        self, table: Table, kind: str, about: str, places: Places, config: ReadingConfig = PLAIN
    ) -> None:
        self.kind, self.path, self.files, self.config = kind, table.path, table.files, config
        self.damage, self.unused = dict(table.damage), Unused()
        self._table, self._places = table, places
        self._ends = list(accumulate(table.counts))
        names = ", ".join(table.schema.names)
        self.sought = f"its columns are {names}; {_why_no_captions(table.schema)}"
        self._image = picture_column(table)
        groups = text_columns(table.schema, config.caption_column)
        self._captions = [name for group in groups for name in group]
        self._label = "" if self._captions else label_column(table)
        if config.caption_column and not self._captions:
            raise ValueError(
                f"{self.path} has no column {config.caption_column!r} of texts; its columns are "
                f"{names}"
            )
        once = [name for name in table.schema.names if table.schema.names.count(name) == 1]
        self._others = [name for name in once if not _has_bytes(table.schema.field(name).type)]
        for name in once:
            if name not in self._others and name != self._image:
                self.unused.add("columns of bytes beside the pictures", name)
        labels = [self._label] if self._label else []
        columns = (self._image, *self._captions, *labels, *self._others)
        self._columns = tuple(dict.fromkeys(columns))
        self.num_captioned = len(self) if self._captions or self._label else 0
        first = next(iter(groups), labels)
        caption_columns = ", ".join(first) or "none"
        self.about = f"{about}, pictures in column {self._image}, captions in {caption_columns}"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[group - 1] if group else 0)
        with _LOCK:
            rows = _load(self._table, group, self._columns)
        about = {name: cell(rows[name][row]) for name in self._columns if name != self._image}
        data, missing, note = self._bytes(rows[self._image][row])
        if self._label:
            result = self._labelled(about[self._label])
        else:
            cells = {n: about[n] for n in (*self._captions, "weights") if n in about}
            result = texts.from_columns(cells, self.config.caption_column)
        split = ""
        if self.config.splits == "own":
            split = split_from(about.get("split")) or self._table.splits[group]
        columns, more = texts.columns_from(about)
        return Example(
            f"{index:08d}",
            data,
            result.captions,
            split,
            texts.attributes_from(about),
            "",
            str(index),
            (*result.notes, *((note,) if note else ()), *more),
            columns,
            missing,
        )

    def _bytes(self, value: Any) -> tuple[bytes, str, str]:
        """The bytes in a cell, or the reason if it has none, and a note about the cell."""
        import pyarrow as pa

        note = ""
        if isinstance(value, pa.ListScalar):
            pictures = value.values
            if pictures is not None and len(pictures) > 1:
                note = "of a row with several pictures the first is used"
            if not pictures:
                return b"", "no picture in this row", ""
            value = pictures[0]
        path = None
        if isinstance(value, pa.StructScalar) and value.is_valid:
            fields = {field.name for field in value.type}
            path = value["path"].as_py() if "path" in fields else None
            value = value["bytes"] if "bytes" in fields else None
        if isinstance(value, pa.DictionaryScalar):
            value = value.value
        if isinstance(value, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
            path, value = value.as_py(), None
        if value is not None and value.is_valid:
            return bytes(memoryview(value.as_buffer())[: MAX_BYTES + 1]), "", note
        if not path:
            return b"", "no picture in this row", note
        data = self._places.read(str(path), MAX_BYTES)
        if data is None:
            return b"", f"its file {printable(str(path))} is not in the source's folder", note
        return data, "", note

    def _labelled(self, label: object) -> texts.ReadCaptions:
        names = self._table.labels.get(self._label, [])
        if isinstance(label, int) and 0 <= label < len(names):
            label = names[label]
        name = words_in_name(label) if isinstance(label, str) else ""
        return texts.weighed([in_template(self.config.caption_template, name)] if name else [])


def picture_column(table: Table) -> str:
    """The name of the column of pictures, by its name and type. Raises ValueError if there is
    none."""
    by_name = {name.lower(): name for name in reversed(table.schema.names)}
    named = [by_name[known] for known in IMAGE_COLUMNS if known in by_name]
    for allowed in (_holds_bytes, _holds_paths):
        for name in [*named, *(table.schema.names if allowed is _holds_bytes else [])]:
            if table.schema.names.count(name) > 1:
                raise ValueError(f"{table.path} has the column {printable(name)} twice")
            if allowed(table.schema.field(name).type):
                return name
    raise ValueError(
        f"no pictures in {table.path}: its columns are {', '.join(table.schema.names)}; looked for "
        f"one of {', '.join(IMAGE_COLUMNS)} that holds pictures"
    )


def text_columns(schema: Any, column: str = "") -> list[list[str]]:
    """Groups of columns that may hold captions, in the order in which they are tried."""
    named = [n for n in schema.names if schema.names.count(n) == 1]
    usable = [n for n in named if _holds_texts(schema.field(n).type)]
    return texts.caption_columns(usable, column)


def _why_no_captions(schema: Any) -> str:
    """The columns with a caption's name that hold no text, or the names that are known."""
    wrong = []
    for name in dict.fromkeys(filter(texts.is_known, schema.names)):
        several = schema.names.count(name) > 1
        wrong.append(f"{name} {'comes twice' if several else f'is {schema.field(name).type}'}")
    if wrong:
        return f"{', '.join(wrong)}, and one column of texts is needed"
    return f"looked for {', '.join(texts.CAPTION_NAMES)}"


def label_column(table: Table) -> str:
    """The column of classes with known names, if there is one."""
    for name in LABEL_COLUMNS:
        if name in table.labels and name in table.schema.names:
            return name
    return ""


def _holds_bytes(type_: Any) -> bool:
    import pyarrow.types as t

    if t.is_list(type_) or t.is_large_list(type_):
        return _holds_bytes(type_.value_type)
    if t.is_struct(type_):
        return any(f.name == "bytes" and _holds_bytes(f.type) for f in type_)
    return t.is_binary(type_) or t.is_large_binary(type_) or t.is_binary_view(type_)


def _holds_paths(type_: Any) -> bool:
    import pyarrow.types as t

    if t.is_list(type_) or t.is_large_list(type_):
        return _holds_paths(type_.value_type)
    if t.is_struct(type_):
        return any(f.name == "path" and _holds_paths(f.type) for f in type_)
    return _is_text(type_)


def _holds_texts(type_: Any, depth: int = 0) -> bool:
    import pyarrow.types as t

    if t.is_list(type_) or t.is_large_list(type_):
        return depth < 3 and _holds_texts(type_.value_type, depth + 1)
    if t.is_struct(type_):
        names = [f.name for f in type_ if _holds_texts(f.type, depth + 1)] if depth < 3 else []
        return bool(texts.caption_columns(names))
    return _is_text(type_)


def _is_text(type_: Any) -> bool:
    """True for texts in any of Arrow's types; pandas' categories are a dictionary."""
    import pyarrow.types as t

    if t.is_dictionary(type_):
        return _is_text(type_.value_type)
    return t.is_string(type_) or t.is_large_string(type_) or t.is_string_view(type_)


def cell(scalar: Any) -> Any:
    """A cell as a Python value. If Python has no such value, for example for a time in an unknown
    zone, its number as text."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, LookupError, ImportError):
        return str(getattr(scalar, "value", ""))


def _has_bytes(type_: Any, depth: int = 0) -> bool:
    """True if a type holds bytes at any depth. They may be pictures, which must not be opened
    here."""
    import pyarrow.types as t

    if t.is_struct(type_) and depth < _MOST_DEPTH:
        return any(_has_bytes(field.type, depth + 1) for field in type_)
    if t.is_nested(type_):
        is_list = t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_)
        return not is_list or depth >= _MOST_DEPTH or _has_bytes(type_.value_type, depth + 1)
    if t.is_dictionary(type_):
        return _has_bytes(type_.value_type, depth)
    return not (_is_text(type_) or t.is_primitive(type_) or t.is_decimal(type_) or t.is_null(type_))


def check_group(path: object, size: int) -> None:
    """Raise ValueError for a part of a table that does not fit in memory."""
    if size > _MAX_GROUP:
        raise ValueError(f"{path}: a part of {size:,} bytes is more than {_MAX_GROUP:,}")


def joined(values: Sequence[Path]) -> str:
    """The first names, for messages."""
    return ", ".join(str(v.name) for v in values[:3]) + (" …" if len(values) > 3 else "")

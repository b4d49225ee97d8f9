"""Folders that `datasets.save_to_disk` wrote: Arrow files, or one such folder for each split."""

import json
import mmap
import os
from pathlib import Path
from typing import Any

from common.json_files import Json
from data.sources.base import printable
from data.sources.captions.splits import split_from, splits_of
from data.sources.files.remote import RemotePath
from data.sources.tables.columns import Table, check_group

MARKERS = ("dataset_info.json", "state.json", "dataset_dict.json")
_MAX_JSON = 64 << 20


class ArrowTable(Table):
    """The Arrow files of a saved data set, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.path, self.labels, self.files, self.damage = folder, {}, [], {}
        self.schema, self.counts, self.splits = None, [], []
        self._batches: list[tuple[Path, Any]] = []
        for part, split in _parts(folder):
            self.labels |= _labels(part)
            files = _files(part)
            named = splits_of([file.name for file in files], by_file=True)
            for file, of_name in zip(files, named or [""] * len(files), strict=True):
                self._open(file, split or of_name)
        if self.schema is None and self.damage:
            name, why = next(iter(self.damage.items()))
            raise ValueError(f"{folder / name} is not a readable Arrow file: {why}")
        if self.schema is None:
            raise ValueError(f"{folder} holds no Arrow file that dataset.save_to_disk wrote")

    def _open(self, file: Path, split: str) -> None:
        import pyarrow as pa

        before = pa.total_allocated_bytes()
        try:
            mapped = _mapped(file.copied() if isinstance(file, RemotePath) else str(file))
            try:
                reader: Any = pa.ipc.open_stream(mapped)
                batches = iter(reader)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(mapped)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            if self.schema is not None and not reader.schema.equals(self.schema):
                raise ValueError(f"its columns differ from those of {self.files[0].name}")
            self.schema = reader.schema
            for batch in batches:
                check_group(file, pa.total_allocated_bytes() - before)
                self._batches.append((file, batch))
                self.counts.append(batch.num_rows)
                self.splits.append(split)
        except (pa.ArrowException, OSError, ValueError) as error:
            why = printable(" ".join(str(error).split()))
            if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
                raise ValueError(f"{file} is not a readable Arrow file: {why}") from None
            self.damage[str(file.relative_to(self.path))] = why
        self.files.append(file)

    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        import pyarrow as pa

        file, batch = self._batches[group]
        chosen = batch.select(list(columns))
        try:
            chosen.validate(full=True)  # offsets that point elsewhere would read foreign memory
        except pa.ArrowException as error:
            raise ValueError(f"{file} is damaged: {printable(str(error))}") from None
        return chosen


def _mapped(path: str) -> Any:
    """A file's memory-mapped bytes. pyarrow itself opens only names that are UTF-8."""
    import pyarrow as pa

    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise OSError("an empty file")
        return pa.BufferReader(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_json(path: Path) -> Json:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_JSON))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {printable(str(error))}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _parts(folder: Path) -> list[tuple[Path, str]]:
    """The folders of the splits with our names of them, or the folder itself."""
    if not (folder / "dataset_dict.json").is_file():
        return [(folder, "")]
    names = _read_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not all(_is_name(name) for name in names):
        raise ValueError(f"{folder / 'dataset_dict.json'} has no list of splits")
    splits = [split_from(name) for name in names]
    return [
        (folder / name, split if len(set(splits)) > 1 else "")
        for name, split in zip(names, splits, strict=True)
    ]


def _files(folder: Path) -> list[Path]:
    """The Arrow files that state.json lists. The folder in which `datasets` keeps a downloaded set
    has no state.json: all files, without what `map` and `filter` keep there."""
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(
            f"{folder} holds an index of rows beside them; save it again after .flatten_indices()"
        )
    listed = state.get("_data_files")
    if listed is None:
        files = sorted(path for path in folder.glob("*.arrow") if path.is_file())
        return [path for path in files if not path.name.startswith(("cache-", "tmp"))]
    if not isinstance(listed, list):
        raise ValueError(f"{folder / 'state.json'} has no list of files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    if not all(_is_name(name) and (folder / str(name)).is_file() for name in names):
        raise ValueError(f"{folder / 'state.json'} lists files that are not in {folder}")
    return [folder / str(name) for name in names]


def _is_name(name: object) -> bool:
    """True if the name is a name of something in the folder itself."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _labels(folder: Path) -> dict[str, list[str]]:
    """Class names, for each column that has them."""
    features = _read_json(folder / "dataset_info.json").get("features")
    names_of = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and all(isinstance(n, str) for n in names):
            names_of[name] = names
    return names_of

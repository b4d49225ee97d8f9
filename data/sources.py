"""Captioned pictures as people have them: a folder, webdataset tars, a saved Hugging Face dataset.

All of them read as a sequence of `Example`s, in an order that depends on names alone.
"""

import glob
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data.pictures import MAX_BYTES, read_picture
from data.tars import Member, TarIndex, index_tar, read_member, split_name
from data.text import clean

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp")
CAPTION_ENDINGS = ("json", "txt")
ATTRIBUTES = (
    *("concept", "style", "tone", "gender", "role", "group", "subgroup", "hexcode"),
    *("url", "license"),
)
MAX_CAPTION_BYTES = 1 << 20
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "img", "picture")
CAPTION_COLUMNS = ("captions", "caption", "text", "txt", "sentences")

Captions = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Example:
    """One picture, still as its file's bytes, and what is said about it."""

    key: str
    data: bytes
    captions: Captions
    """Cleaned texts with weights that need not sum to one; empty without a usable caption."""
    split: str
    """Named by the source itself, else empty."""
    attributes: dict[str, str]
    file: str
    """Path of the file, relative to the source."""
    member: str = ""
    """Name inside that file when it is a tar or a table."""

    def picture(self, image_size: int) -> UInt8[np.ndarray, "y x 3"]:
        """The decoded square. Raises UnreadablePictureError, a ValueError, saying why not."""
        return read_picture(self.data, image_size)


class Source(ABC):
    """A sized, indexable collection of examples."""

    path: Path
    files: list[Path]
    """Every file it reads."""
    damage: dict[str, str]
    """Files that could be read only in part, and why."""
    num_captioned: int
    """Pictures that have a caption file or column."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))


def open_source(path: str | Path, need_captions: bool = True) -> Source:
    """Open a folder of pictures, a folder, glob, {a,b} list or {00..07} range of tars, one tar, or
    what `datasets.save_to_disk` wrote.

    Raises:
        ValueError: nothing there, no pictures, or (if needed) no captions; says what was sought.
    """
    source = _open(str(path))
    if not len(source):
        reasons = "; ".join(f"{name}: {why}" for name, why in list(source.damage.items())[:3])
        raise ValueError(
            f"no pictures in {path}: looked for files that end in {', '.join(PICTURE_ENDINGS)} and "
            f"for tars of them" + (f" ({reasons})" if reasons else "")
        )
    if need_captions and not source.num_captioned:
        raise ValueError(
            f"no captions in {path}: none of its {len(source):,} pictures has a .txt or .json of "
            f"the same name beside it"
        )
    return source


def _open(path: str) -> Source:
    folder = Path(path)
    if not folder.is_dir():
        return TarSource(_find_tars(path))
    markers = ("dataset_info.json", "state.json", "dataset_dict.json")
    if any((folder / marker).is_file() for marker in markers):
        return TableSource(folder)
    files = list(_walk(folder))
    tars = [p for p in files if p.suffix.lower() == ".tar"]
    if not tars:
        return FolderSource(folder, files)
    loose = [p for p in files if split_name(p.name)[1] in PICTURE_ENDINGS]
    if loose:
        raise ValueError(
            f"{folder} holds {len(tars)} tars and also {len(loose)} loose pictures, such as "
            f"{loose[0].name}; put them into different folders"
        )
    return TarSource(tars, folder)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below, sorted; hidden ones (macOS writes ._0001.jpg) left out, and so are pipes and
    sockets, which would keep a reader waiting. Links to nowhere stay, to be named as unreadable."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (os.path.join(here, name) for name in sorted(names) if name[0] != "."):
            if os.path.isfile(path) or not os.path.exists(path):
                yield Path(path)


def _find_tars(path: str) -> list[Path]:
    import braceexpand

    patterns = [path] if Path(path).exists() else braceexpand.braceexpand(path)
    found = [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
    for one in found:
        if not one.exists():
            raise ValueError(
                f"there is no {one}: a source is a folder of pictures or tars, or tars"
            )
        if not one.is_file() or one.suffix.lower() != ".tar":
            raise ValueError(f"{one} is no .tar file (compressed ones must be unpacked first)")
    return found


class FolderSource(Source):
    """Pictures with .txt or .json files of the same name beside them, at any depth."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.path, self.damage = folder, {}
        beside: dict[str, dict[str, Path]] = {}
        for path in files:
            stem, dot, ending = str(path).rpartition(".")
            if dot and ending.lower() in PICTURE_ENDINGS + CAPTION_ENDINGS:
                beside.setdefault(stem, {})[ending.lower()] = path
        self._pictures: list[tuple[Path, dict[str, Path]]] = []
        for found in beside.values():
            texts = {e: found[e] for e in CAPTION_ENDINGS if e in found}
            self._pictures += [(found[e], texts) for e in PICTURE_ENDINGS if e in found]
        self.num_captioned = sum(bool(texts) for _, texts in self._pictures)
        self.files = [p for picture, texts in self._pictures for p in (picture, *texts.values())]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Example:
        path, texts = self._pictures[index]
        said = {ending: _read_caption(p) for ending, p in texts.items()}
        name = path.relative_to(self.path).as_posix()
        return _example(name.rpartition(".")[0], _read_head(path, MAX_BYTES), said, name)


def _read_head(path: Path, limit: int) -> bytes:
    """The file, or of a longer one just enough to see that it is beyond the limit."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def _read_caption(path: Path) -> bytes:
    try:
        return _read_head(path, MAX_CAPTION_BYTES)
    except OSError:
        return b""  # the same as no caption


class TarSource(Source):
    """Tars as img2dataset and `python -m data.emoji` write them: 0001.jpg, 0001.txt, 0001.json."""

    def __init__(self, tars: list[Path], folder: Path | None = None) -> None:
        common = os.path.commonpath([tar.absolute().parent for tar in tars])
        self.path, self.files = folder or Path(common), tars
        indices = [index_tar(tar, PICTURE_ENDINGS + CAPTION_ENDINGS) for tar in tars]
        self.damage = {one.path.name: one.damage for one in indices if one.damage}
        self._samples: list[tuple[TarIndex, str, dict[str, Member]]] = [
            (index, key, members)
            for index in indices
            for key, members in index.samples.items()
            if any(ending in members for ending in PICTURE_ENDINGS)
        ]
        self.num_captioned = sum(
            any(ending in members for ending in CAPTION_ENDINGS) for _, _, members in self._samples
        )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        tar, key, members = self._samples[index]
        picture = next(members[e] for e in PICTURE_ENDINGS if e in members)
        said = {
            ending: read_member(tar.path, members[ending], MAX_CAPTION_BYTES)
            for ending in CAPTION_ENDINGS
            if ending in members
        }
        file = os.path.relpath(tar.path, self.path)
        data = read_member(tar.path, picture, MAX_BYTES)
        return _example(key, data, said, file, picture.name)


def _example(key: str, data: bytes, said: dict[str, bytes], file: str, member: str = "") -> Example:
    """Build an example from the bytes of a picture and of its caption files."""
    about = _parse_json(said.get("json", b""))
    captions = captions_from(about)
    if not captions and len(said.get("txt", b"")) <= MAX_CAPTION_BYTES:
        captions = captions_from({"caption": said.get("txt", b"").decode("utf-8-sig", "replace")})
    split, attributes = clean(str(about.get("split") or "")), attributes_from(about)
    return Example(key, data, captions, split, attributes, file, member)


def _parse_json(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_CAPTION_BYTES:
        return {}
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def captions_from(about: Mapping[str, Any]) -> Captions:
    """The usable ones of `captions` (with `weights`, if they fit) or of `caption`."""
    texts = about.get("captions") or about.get("caption")
    texts = texts if isinstance(texts, list) else [texts]
    weights = about.get("weights")
    if not isinstance(weights, list) or len(weights) != len(texts):
        weights = [1.0] * len(texts)
    pairs = [
        (clean(text), float(weight))
        for text, weight in zip(texts, weights, strict=True)
        if isinstance(text, str) and isinstance(weight, int | float)
    ]
    return tuple((t, w) for t, w in pairs if t and math.isfinite(w) and w > 0)


def attributes_from(about: Mapping[str, Any]) -> dict[str, str]:
    """The known columns, as text. Others stay behind: img2dataset writes fifteen of them."""
    return {name: str(about[name]) for name in ATTRIBUTES if isinstance(about.get(name), str | int)}


@dataclass
class TableSource(Source):
    """A folder that `datasets.save_to_disk` wrote, with a column of images and one of captions."""

    path: Path
    damage: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import datasets  # takes seconds to import

        table = datasets.load_from_disk(str(self.path))
        if isinstance(table, datasets.DatasetDict):
            raise ValueError(
                f"{self.path} holds the splits {', '.join(table)}; name one of them, such as "
                f"{self.path / next(iter(table), '')}"
            )
        self._image = next((c for c in IMAGE_COLUMNS if c in table.column_names), None)
        self._caption = next((c for c in CAPTION_COLUMNS if c in table.column_names), None)
        if self._image is None:
            raise ValueError(
                f"no pictures in {self.path}: its columns are {', '.join(table.column_names)}; "
                f"looked for one of {', '.join(IMAGE_COLUMNS)}"
            )
        self._table = table.cast_column(self._image, datasets.Image(decode=False))
        self.files = sorted(self.path.glob("*.arrow"))
        self.num_captioned = len(table) if self._caption else 0

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        row = self._table[index]
        # Only embedded bytes: a path in a foreign table could point anywhere on this machine.
        data = (row[self._image] or {}).get("bytes") or b""
        captions = captions_from({**row, "captions": row.get(self._caption)})
        split, attributes = str(row.get("split") or ""), attributes_from(row)
        return Example(f"{index:08d}", data, captions, split, attributes, "", str(index))

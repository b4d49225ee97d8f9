"""Token records on disk: captions and pictures as tokens in memory-mapped arrays, and their origin.

A folder holds records.json, one raw little-endian array per name in ARRAYS, examples.jsonl, and
copies of the tokenizer and the VQGAN that made the tokens, so that it explains itself.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from data.reading import write_bad_samples
from data.sources.config import PLAIN, ReadingConfig
from files import new_folder

FORMAT = 1
MARKER = "records.json"
ARRAYS = {
    "image_tokens": "u16",
    "text_tokens": "u16",
    "text_lengths": "u16",
    "caption_offsets": "i64",
    "caption_weights": "f32",
    "split": "u8",
}
_DTYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "i64": "<i8", "f32": "<f4"}
_KEYS: dict[str, type] = {
    "grid_size": int,
    "text_length": int,
    "codebook_size": int,
    "text_vocab_size": int,
    "split_names": list,
    "counts": dict,
    "source": str,
    "arrays": dict,
    "digest": str,
}


@dataclass(frozen=True)
class Records:
    """An opened folder of records. Captions of example i are the rows caption_offsets[i] to
    caption_offsets[i + 1] of text_tokens."""

    folder: Path
    about: dict[str, Any]
    """The content of records.json."""
    image_tokens: np.ndarray
    text_tokens: np.ndarray
    text_lengths: np.ndarray
    caption_offsets: np.ndarray
    caption_weights: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.image_tokens)

    def rows(self, split: str) -> Int64[np.ndarray, " m"]:
        """Indices of the examples of a split, in order; none for a name that does not occur."""
        if split not in self.split_names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.split == self.split_names.index(split)).astype(np.int64)

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """Per example: key, source_index, file, member, caption (the first one), split, and the
        source's attributes, such as concept and tone."""
        lines = (self.folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that occur."""
        return tuple(self.about["split_names"])

    @property
    def held_out_splits(self) -> list[str]:
        """The splits whose captions are asked for and never trained on."""
        return [name for name in self.split_names if name not in ("train", "gallery")]

    def some_captions(self, count: int) -> list[str]:
        """About so many captions of held-out pictures; of training pictures where none are held
        out."""
        for split in [*self.held_out_splits, "train"]:
            rows = self.rows(split)
            if len(rows):
                break
        return [
            self.examples[row]["caption"] for row in rows[:: max(len(rows) // count, 1)][:count]
        ]

    @property
    def grid_size(self) -> int:
        """Image tokens per side."""
        return self.about["grid_size"]

    @property
    def image_length(self) -> int:
        """Image tokens per picture."""
        return self.grid_size**2

    @property
    def codebook_size(self) -> int:
        """Number of different image tokens."""
        return self.about["codebook_size"]

    @property
    def text_length(self) -> int:
        """Tokens per caption row, the end token included."""
        return self.about["text_length"]

    @property
    def text_vocab_size(self) -> int:
        """Number of different text tokens."""
        return self.about["text_vocab_size"]

    @property
    def digest(self) -> str:
        """Short hash of everything that training reads."""
        return self.about["digest"]

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer that made the text tokens."""
        return self.folder / "tokenizer"

    @property
    def vqgan_folder(self) -> Path:
        """The VQGAN that made the image tokens."""
        return self.folder / "vqgan"

    @property
    def sources(self) -> list[str]:
        """Where the pictures came from, as `open_source` takes it."""
        names = self.about.get("sources", [self.about["source"]])
        return [os.path.normpath(self.folder / name) for name in names]

    @property
    def reading(self) -> ReadingConfig:
        """How they were read. Raises ValueError for settings of another version."""
        said = self.about.get("reading", {})
        known = {name: type(value) for name, value in asdict(PLAIN).items()}
        if not isinstance(said, dict) or any(type(v) is not known.get(k) for k, v in said.items()):
            raise _damaged(self.folder / MARKER, f"reading is {said!r:.80}")
        return ReadingConfig(**said)


def open_records(folder: str | Path) -> Records:
    """Open records without reading them.

    Raises:
        ValueError: missing, of another format version, or with arrays of a wrong size.
    """
    folder = Path(folder)
    if not (folder / MARKER).is_file():
        raise ValueError(
            f"no token records in {folder}; make them with "
            f"`python -m data.encode --source FOLDER_OR_TARS --out {folder}`"
        )
    about = _read_about(folder / MARKER)
    return Records(folder, about, **{name: _open_array(folder, name, about) for name in ARRAYS})


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(about, dict):
        raise _damaged(path, f"it holds a {type(about).__name__}, not an object")
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} has format {about.get('format')}, this Pastel reads {FORMAT}"
        )
    for name, kind in _KEYS.items():
        if not isinstance(about.get(name), kind):
            raise _damaged(path, f"{name} is {about.get(name)!r:.40}, not of type {kind.__name__}")
    if not all(isinstance(name, str) for name in about["split_names"]):
        raise _damaged(path, "split_names are not all text")
    for name in ARRAYS:
        if not _is_array(about["arrays"].get(name), name):
            raise _damaged(path, f"arrays does not say the type and shape of {name}")
    return about


def _is_array(said: Any, name: str) -> bool:
    """Whether records.json says all that opening an array takes."""
    if not isinstance(said, dict) or not isinstance(said.get("shape"), list):
        return False
    sizes = all(isinstance(size, int) and size >= 0 for size in said["shape"])
    dimensions = 2 if name in ("image_tokens", "text_tokens") else 1
    return sizes and len(said["shape"]) == dimensions and str(said.get("type")) in _DTYPES


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {why}; remove {path.parent} and encode again with "
        f"`python -m data.encode --source FOLDER_OR_TARS --out {path.parent}`"
    )


def _open_array(folder: Path, name: str, about: dict[str, Any]) -> np.ndarray:
    kind, shape = about["arrays"][name]["type"], tuple(about["arrays"][name]["shape"])
    path, dtype = folder / f"{name}.{kind}", np.dtype(_DTYPES[kind])
    expected = math.prod(shape) * dtype.itemsize
    found = path.stat().st_size if path.is_file() else 0
    if found != expected:
        raise ValueError(
            f"{path} has {found:,} bytes instead of {expected:,}; make the records anew"
        )
    if not expected:
        return np.zeros(shape, dtype)
    # A plain array view: np.memmap's own indexing is several times slower.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape))


def write_records(
    out: Path,
    *,
    image_tokens: Int32[np.ndarray, "n k"],
    text_tokens: Int32[np.ndarray, "m t"],
    text_lengths: Int32[np.ndarray, " m"],
    caption_offsets: Int64[np.ndarray, " offsets"],
    caption_weights: Float32[np.ndarray, " m"],
    splits: Sequence[str],
    examples: Sequence[dict[str, Any]],
    sources: Sequence[str],
    reading: ReadingConfig = PLAIN,
    bad_samples: Sequence[tuple[str, str]] = (),
    tokenizer_folder: Path | None = None,
    vqgan_folder: Path | None = None,
    **about: Any,
) -> None:
    """Write a folder of records, whole or not at all.

    `about` must say codebook_size and text_vocab_size; more is kept as it is.
    """
    names = sorted(set(splits))
    arrays = {
        "image_tokens": image_tokens,
        "text_tokens": text_tokens,
        "text_lengths": text_lengths,
        "caption_offsets": caption_offsets,
        "caption_weights": caption_weights,
        "split": _numbers(splits, names),
    }
    kinds = ARRAYS | {
        name: "u32"
        for name, size in (("image_tokens", "codebook_size"), ("text_tokens", "text_vocab_size"))
        if about[size] > 1 << 16
    }
    with new_folder(out) as folder:
        hashed = hashlib.blake2b("\n".join(names).encode(), digest_size=8)
        for name, array in arrays.items():
            array = np.ascontiguousarray(array, _DTYPES[kinds[name]])
            array.tofile(folder / f"{name}.{kinds[name]}")
            hashed.update(f"{name}{array.shape}".encode() + array.tobytes())
        with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(e) + "\n" for e in examples)
        write_bad_samples(folder / "bad_samples.jsonl", bad_samples)
        for name, part in (("tokenizer", tokenizer_folder), ("vqgan", vqgan_folder)):
            if part is not None:
                shutil.copytree(part, folder / name)
        shapes = {n: {"type": kinds[n], "shape": array.shape} for n, array in arrays.items()}
        _write_about(
            folder / MARKER,
            {
                "format": FORMAT,
                **_sizes(image_tokens.shape, text_tokens.shape),
                "split_names": names,
                "counts": {name: splits.count(name) for name in names},
                **_origin(out, sources, reading),
                "arrays": shapes,
                "digest": hashed.hexdigest(),
                **about,
            },
        )


def _origin(out: Path, sources: Sequence[str], reading: ReadingConfig) -> dict[str, Any]:
    """Where the pictures came from, as seen from `out`, and how they were read."""
    relative = [os.path.relpath(os.path.expanduser(one), out.absolute()) for one in sources]
    return {"source": relative[0], "sources": relative, "reading": asdict(reading)}


def _sizes(image: tuple[int, ...], text: tuple[int, ...]) -> dict[str, int]:
    """By the shapes of the two kinds of tokens."""
    return {
        "count": image[0],
        "grid_size": round(image[1] ** 0.5),
        "image_length": image[1],
        "text_length": text[1],
    }


def _write_about(path: Path, about: dict[str, Any]) -> None:
    # In ASCII, as the examples are: the name of a file or folder need not be UTF-8.
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _numbers(splits: Sequence[str], names: list[str]) -> UInt8[np.ndarray, " n"]:
    if len(names) > 256:
        raise ValueError(f"{len(names)} different splits, such as {names[0]!r}; at most 256 fit")
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[name] for name in splits], np.uint8)

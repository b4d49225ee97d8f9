"""Token records on disk: captions and pictures as tokens in memory-mapped arrays, and their origin.

A folder holds records.json, one raw little-endian array per name in ARRAYS, and examples.jsonl with
its offsets. It also holds copies of the tokenizer and the VQGAN that made the tokens, so it needs
no other folder.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from copying import copy_folder
from data.array_files import open_array, write_arrays
from data.described import ARRAYS, FORMAT, damaged, read_about
from data.described import MARKER as MARKER
from data.examples import Examples, write_examples
from data.folders import digest_folder
from data.reading import write_bad_samples
from data.soundness import check_shapes, check_whole, glance, remember, was_checked
from data.sources.config import PLAIN, ReadingConfig
from files import new_folder
from split_names import HELD_OUT, NOT_HELD_OUT, TRAIN


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
        """Indices of the examples of a split, in order; empty for an unknown split."""
        if split not in self.split_names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.split == self.split_names.index(split)).astype(np.int64)

    @cached_property
    def examples(self) -> Examples:
        """The metadata of each example, read one at a time."""
        return Examples(self.folder)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that occur."""
        return tuple(self.about["split_names"])

    @property
    def held_out_splits(self) -> list[str]:
        """The splits whose captions are asked for and never trained on."""
        return [name for name in self.split_names if name not in NOT_HELD_OUT]

    def some_captions(self, count: int) -> list[str]:
        """At most `count` distinct captions, of held-out pictures first and then of training
        pictures."""
        found: dict[str, None] = {}
        for split in [*self.held_out_splits, TRAIN]:
            rows = self.rows(split)
            for row in rows[:: max(len(rows) // count, 1)]:
                if len(found) < count:
                    found.setdefault(self.examples[row]["caption"])
        return list(found)

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
        """Paths of the pictures' sources, as `open_source` takes them."""
        names = self.about.get("sources", [self.about["source"]])
        return [os.path.normpath(self.folder / name) for name in names]

    @property
    def reading(self) -> ReadingConfig:
        """The settings that the pictures were read with. Raises ValueError for another version's
        settings."""
        said = self.about.get("reading", {})
        known = {name: type(value) for name, value in asdict(PLAIN).items()}
        if not isinstance(said, dict) or any(type(v) is not known.get(k) for k, v in said.items()):
            raise damaged(self.folder / MARKER, f"reading is {said!r:.80}")
        return ReadingConfig(**said)


def open_records(folder: str | Path) -> Records:
    """Open records, and check a few places of each array.

    Raises:
        ValueError: the records are missing, damaged or of another format version; the message names
            the file.
    """
    folder = Path(folder)
    if not (folder / MARKER).is_file():
        raise ValueError(
            f"no token records in {folder}; make them with "
            f"`python -m data.encode --source FOLDER_OR_TARS --out {folder}`"
        )
    about = read_about(folder / MARKER)
    arrays = {name: open_array(folder, name, about) for name in ARRAYS}
    check_shapes(folder, about, arrays)
    glance(folder, about, arrays)
    return Records(folder, about, **arrays)


def open_whole(folder: str | Path) -> Records:
    """Open records and read all of them, unless these very files were read whole before.

    Raises:
        ValueError: the records are missing or damaged; the message names the file.
    """
    records = open_records(folder)
    if not was_checked(records.folder):
        for _ in check_whole(records.folder, records.about, records.arrays, records.examples):
            pass
        remember(records.folder)
    return records


def compare_splits(theirs: str | None, ours: str | Path, weights: str) -> list[str]:
    """A line if `weights` may have trained on pictures that `ours` hold out: the rule for its
    records, `theirs`, is another or unknown."""
    records = open_records(ours)
    if HELD_OUT not in records.split_names:
        return []
    try:
        rule = None if theirs is None else open_records(theirs).about.get("held_out_by")
    except ValueError:
        rule = None
    if rule is not None and rule == records.about.get("held_out_by"):
        return []
    how = "it is not known how its own" if rule is None else "by another rule its own"
    return [
        f"held-out pictures of {ours} may be among those that {weights} was trained on: "
        f"{how} were chosen"
    ]


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
    source: str | Sequence[str],
    reading: ReadingConfig = PLAIN,
    bad_samples: Sequence[tuple[str, str]] = (),
    tokenizer_folder: Path | None = None,
    vqgan_folder: Path | None = None,
    **about: Any,
) -> None:
    """Write a folder of records, whole or not at all.

    `about` must give codebook_size and text_vocab_size; other keys are kept unchanged.
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
        digests = write_arrays(folder, arrays, kinds, names)
        write_examples(folder, examples)
        write_bad_samples(folder / "bad_samples.jsonl", bad_samples)
        parts = {}
        for name, part in (("tokenizer", tokenizer_folder), ("vqgan", vqgan_folder)):
            if part is not None:
                copy_folder(part, folder / name)
                parts[name] = digest_folder(folder / name)
        shapes = {n: {"type": kinds[n], "shape": array.shape} for n, array in arrays.items()}
        _write_about(
            folder / MARKER,
            {
                "format": FORMAT,
                **_sizes(image_tokens.shape, text_tokens.shape),
                "split_names": names,
                "counts": {name: splits.count(name) for name in names},
                **_origin(out, [source] if isinstance(source, str) else source, reading),
                "arrays": shapes,
                **digests,
                "tokenizer_digest": parts.get("tokenizer"),
                "vqgan_digest": parts.get("vqgan"),
                **about,
            },
        )


def _origin(out: Path, sources: Sequence[str], reading: ReadingConfig) -> dict[str, Any]:
    """The source's paths relative to `out`, and the settings of reading."""
    relative = [os.path.relpath(os.path.expanduser(one), out.absolute()) for one in sources]
    return {"source": relative[0], "sources": relative, "reading": asdict(reading)}


def _sizes(image: tuple[int, ...], text: tuple[int, ...]) -> dict[str, int]:
    """Sizes for records.json, by the shapes of the two kinds of tokens."""
    return {
        "count": image[0],
        "grid_size": round(image[1] ** 0.5),
        "image_length": image[1],
        "text_length": text[1],
    }


def _write_about(path: Path, about: dict[str, Any]) -> None:
    # In ASCII: the name of a file or folder need not be UTF-8.
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _numbers(splits: Sequence[str], names: list[str]) -> UInt8[np.ndarray, " n"]:
    if len(names) > 256:
        raise ValueError(f"{len(names)} different splits, such as {names[0]!r}; at most 256 fit")
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[name] for name in splits], np.uint8)

"""Token records: captions and pictures as tokens, in a folder of memory-mapped arrays.

The folder holds records.json, one raw little-endian array for each name in ARRAYS, and
examples.jsonl with its offsets. It also holds the tokenizer and the VQGAN that made the tokens, so
it is self-contained.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from common import clone
from common.json_files import Json
from common.split_names import HELD_OUT, NOT_HELD_OUT, TRAIN
from data.sources.config import ReadingConfig
from data.sources.files.addresses import scheme_of
from data.stored.array_files import READ_AHEAD, open_array, read_ahead
from data.stored.column_files import ColumnFiles
from data.stored.examples import Examples
from data.stored.record_checks import (
    check_samples,
    check_shapes,
    check_whole,
    mark_checked,
    was_checked,
)
from data.stored.records_json import ARRAYS, EXTRA, MARKER, read_about, read_reading

LARGE = 1 << 28
"""Size in bytes above which records are not checked whole before training."""
_READ_FOR_CODES = 1 << 16  # pictures


@dataclass(frozen=True)
class Records:
    """An open folder of token records. The captions of example i are the rows caption_offsets[i] to
    caption_offsets[i + 1] − 1 of text_tokens."""

    folder: Path
    about: dict[str, Any]
    """The content of records.json."""
    image_tokens: np.ndarray
    text_tokens: np.ndarray
    text_lengths: np.ndarray
    caption_offsets: np.ndarray
    caption_weights: np.ndarray
    split: np.ndarray
    view_tokens: np.ndarray | None = None
    """Image tokens of further views. The views of example i begin at row
    i × more_views."""
    pixel_hashes: np.ndarray | None = None
    """A hash of each example's encoded picture."""
    kept: np.ndarray | None = None
    """True for each example that meets the rules of data.filter; None = without rules."""

    def __len__(self) -> int:
        return len(self.image_tokens)

    def rows(self, split: str) -> Int64[np.ndarray, " m"]:
        """The indices of a split's examples, in order; empty for an unknown split. Of `train`, only
        the examples that meet the rules of data.filter."""
        if split not in self.split_names:
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.split == self.split_names.index(split)).astype(
            np.int64, copy=False
        )
        return rows if self.kept is None or split != TRAIN else rows[self.kept[rows]]

    @cached_property
    def examples(self) -> Examples:
        """The metadata of the examples, read from disk when indexed."""
        return Examples(self.folder)

    @cached_property
    def columns(self) -> ColumnFiles:
        """The columns of the source that were kept."""
        return ColumnFiles(self.folder, len(self))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of this folder by name."""
        named = {name: getattr(self, name) for name in (*ARRAYS, *EXTRA)}
        return {name: array for name, array in named.items() if array is not None}

    def in_order(self) -> "Records":
        """These records, after telling the system that their files are read in order."""
        for array in self.arrays.values():
            read_ahead(array)
        return self

    @property
    def more_views(self) -> int:
        """Number of views of each picture beside the plain one."""
        return 0 if self.view_tokens is None else len(self.view_tokens) // max(len(self), 1)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.about["split_names"])

    @property
    def held_out_splits(self) -> list[str]:
        """The names of the splits that are evaluated and never trained on."""
        return [name for name in self.split_names if name not in NOT_HELD_OUT]

    def some_captions(self, count: int) -> list[str]:
        """At most `count` distinct captions: of held-out pictures and then as many of training
        pictures, which show what has been learnt where each caption has one picture. If there are
        few of one, there are more of the other."""
        captions: dict[str, None] = {}
        held_out = self.held_out_splits
        for splits, most in ((held_out, (count + 1) // 2), ([TRAIN], count), (held_out, count)):
            for split in splits:
                rows = self.rows(split)
                for row in rows[:: max(len(rows) // count, 1)]:
                    if len(captions) >= most:
                        break
                    captions.setdefault(self.examples[row]["caption"])
        return list(captions)

    def used_codes(self) -> Bool[np.ndarray, " k"]:
        """True for each code of the VQGAN that a picture has. Of many pictures a part is read."""
        used = np.zeros(self.codebook_size, bool)
        used[self.image_tokens[:: max(len(self) // _READ_FOR_CODES, 1)].ravel()] = True
        return used

    @property
    def grid_size(self) -> int:
        """Image tokens along one side of a picture."""
        return self.about["grid_size"]

    @property
    def image_length(self) -> int:
        """Image tokens of a picture."""
        return self.grid_size**2

    @property
    def codebook_size(self) -> int:
        """The number of codes of the VQGAN."""
        return self.about["codebook_size"]

    @property
    def text_length(self) -> int:
        """Text tokens of a caption row, with the end token and padding."""
        return self.about["text_length"]

    @property
    def text_vocab_size(self) -> int:
        """The vocabulary size of the tokenizer."""
        return self.about["text_vocab_size"]

    @property
    def digest(self) -> str:
        """A short hash of everything that training reads."""
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
        """Paths and addresses of the sources of the pictures, for `open_source`."""
        names = self.about.get("sources", [self.about["source"]])
        return [n if scheme_of(n) else os.path.normpath(self.folder / n) for n in names]

    @property
    def reading(self) -> ReadingConfig:
        """The settings with which the pictures were read. Raises ValueError for settings of another
        version."""
        return read_reading(self.folder / MARKER, self.about)


def open_records(folder: str | Path) -> Records:
    """Open records, and check samples of each array.

    Raises:
        ValueError: the records are missing, damaged or of another format version; the message names
            the file.
    """
    folder = clone.find(folder)
    if not (folder / MARKER).is_file():
        raise ValueError(
            f"no token records in {folder}; make them with "
            f"`python -m data.encode --source FOLDER_OR_TARS --out {folder}`"
        )
    about = read_about(folder / MARKER)
    names = [name for name in (*ARRAYS, *EXTRA) if name in about["arrays"]]
    arrays = {name: open_array(folder, name, about) for name in names}
    check_shapes(folder, about, arrays)
    read_ahead(arrays["split"])  # `rows` reads all of it
    check_samples(folder, about, arrays)
    for array in arrays.values():
        if array.nbytes <= READ_AHEAD:
            read_ahead(array)
    return Records(folder, about, **arrays)


def open_whole(folder: str | Path) -> Records:
    """Open records and check all of them, unless these files were checked before. Records larger
    than 256 MB are only sampled; a printed line names them.

    Raises:
        ValueError: the records are missing or damaged; the message names the file.
    """
    records = open_records(folder)
    size = sum(array.nbytes for array in records.arrays.values())
    if size > LARGE:
        print(
            f"{folder}: {size / 1e9:.1f} GB, of which a few places are checked; `python -m "
            f"data.check {folder}` reads all of it",
            flush=True,
        )
    elif not was_checked(records.folder):
        for _ in check_whole(records.folder, records.about, records.arrays, records.examples):
            pass
        mark_checked(records.folder)
    return records


def compare_splits(theirs: str | None, ours: str | Path, weights: str) -> list[str]:
    """A warning, as a list of one line, if `weights` may have been trained on pictures that `ours`
    hold out: its records `theirs` were split in another way, or are unknown."""
    records = open_records(ours)
    if HELD_OUT not in records.split_names:
        return []
    try:
        about: Json = {} if theirs is None else open_records(theirs).about
    except ValueError:
        about = {}
    if about.get("held_out_by") is None:
        return [
            f"if {weights} was trained on some of these pictures, it may know held-out ones of "
            f"{ours}, too; if all are new to it, nothing is wrong"
        ]
    if not (how := _describe_other_split(about, records.about)):
        return []
    return [
        f"held-out pictures of {ours} may be among those that {weights} was trained on: {how}; "
        "pictures that are new to it are not concerned"
    ]


def _describe_other_split(theirs: Json, ours: Json) -> str:
    """The reason why pictures that `ours` hold out may be trained on in `theirs`; empty if none
    is. The choice depends on its rule, on the pictures as squares, and on the share; a larger share
    holds out the pictures of a smaller one and others."""
    if theirs["held_out_by"] != ours.get("held_out_by"):
        return "by another rule its own were chosen"
    squares = [about.get("reading") or {} for about in (theirs, ours)]
    for name in ("fit", "background"):
        old, new = (square.get(name) for square in squares)
        if old and new and old != new:
            return f"its own were chosen with --{name} {old}, these with {new}"
    old, new = (_held_out_share(about) for about in (theirs, ours))
    return f"it held out {old:g} of its pictures, these are {new:g}" if new > old else ""


def _held_out_share(about: Json) -> float:
    recipe = about.get("recipe")
    share = recipe.get("held_out") if isinstance(recipe, dict) else None
    return float(share) if isinstance(share, int | float) else 0.0

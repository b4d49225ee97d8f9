"""Token records on disk: captions and pictures as tokens in memory-mapped arrays, and their origin.

A folder holds records.json, one raw little-endian array per name in ARRAYS, and examples.jsonl with
its offsets. It also holds copies of the tokenizer and the VQGAN that made the tokens, so it needs
no other folder.
"""

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from data.array_files import READ_AHEAD, open_array, read_ahead
from data.column_files import ColumnFiles
from data.described import ARRAYS, EXTRA, MARKER, damaged, read_about
from data.examples import Examples
from data.soundness import check_shapes, check_whole, glance, remember, was_checked
from data.sources.addresses import scheme_of
from data.sources.config import PLAIN, ReadingConfig
from split_names import HELD_OUT, NOT_HELD_OUT, TRAIN

LARGE = 1 << 28
"""Bytes. Larger records are not read whole before they are trained on."""


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
    view_tokens: np.ndarray | None = None
    """Image tokens of further views: example i has the rows i × more_views and so on."""
    pixel_hashes: np.ndarray | None = None
    """A hash of each example's picture as it was encoded."""
    kept: np.ndarray | None = None
    """Whether each example is trained on, where data.filter chooses; None = all are."""

    def __len__(self) -> int:
        return len(self.image_tokens)

    def rows(self, split: str) -> Int64[np.ndarray, " m"]:
        """Indices of the examples of a split, in order; empty for an unknown split. Of `train`
        only those that data.filter keeps."""
        if split not in self.split_names:
            return np.zeros(0, np.int64)
        found = np.flatnonzero(self.split == self.split_names.index(split)).astype(
            np.int64, copy=False
        )
        return found if self.kept is None or split != TRAIN else found[self.kept[found]]

    @cached_property
    def examples(self) -> Examples:
        """The metadata of each example, read one at a time."""
        return Examples(self.folder)

    @cached_property
    def columns(self) -> ColumnFiles:
        """The columns of the source, if they were kept."""
        return ColumnFiles(self.folder, len(self))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        named = {name: getattr(self, name) for name in (*ARRAYS, *EXTRA)}
        return {name: array for name, array in named.items() if array is not None}

    def in_order(self) -> "Records":
        """These records, for a reader of all rows: the system may read ahead in their files."""
        for array in self.arrays.values():
            read_ahead(array)
        return self

    @property
    def more_views(self) -> int:
        """Views of each picture besides the plain one."""
        return 0 if self.view_tokens is None else len(self.view_tokens) // max(len(self), 1)

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
        """Paths and addresses of the pictures' sources, as `open_source` takes them."""
        names = self.about.get("sources", [self.about["source"]])
        return [n if scheme_of(n) else os.path.normpath(self.folder / n) for n in names]

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
    names = [name for name in (*ARRAYS, *EXTRA) if name in about["arrays"]]
    arrays = {name: open_array(folder, name, about) for name in names}
    check_shapes(folder, about, arrays)
    read_ahead(arrays["split"])  # it is read whole
    glance(folder, about, arrays)
    for array in arrays.values():
        if array.nbytes <= READ_AHEAD:
            read_ahead(array)
    return Records(folder, about, **arrays)


def open_whole(folder: str | Path) -> Records:
    """Open records and read all of them, unless these very files were read whole before, or are
    larger than 256 MB; then a line says so.

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

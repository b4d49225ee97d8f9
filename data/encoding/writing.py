"""Token records written part by part, so that memory holds one part whatever they grow to."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from common.copying import copy_folder
from common.files import new_folder
from common.json_files import Json
from data.pictures.reading import bad_lines
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files.addresses import scheme_of, without_secrets
from data.stored.array_files import ArrayWriter, digest_arrays
from data.stored.column_files import ColumnWriter
from data.stored.examples import ExampleWriter
from data.stored.folders import digest_folder
from data.stored.records_json import ARRAYS, EXTRA, FORMAT, MARKER, TRAINED_ON

BAD_SAMPLES = "bad_samples.jsonl"
_WIDE = {"codebook_size": ("image_tokens", "view_tokens"), "text_vocab_size": ("text_tokens",)}
"""Size of a vocabulary → arrays of its tokens. They need 32 bits if 16 are too few."""


@dataclass(frozen=True)
class Part:
    """Some examples in the order of the source, and the skipped pictures among them."""

    image_tokens: Int32[np.ndarray, "n k"]
    text_tokens: Int32[np.ndarray, "m t"]
    text_lengths: Int32[np.ndarray, " m"]
    caption_offsets: Int64[np.ndarray, " offsets"]
    """Offsets from 0 to the number of captions in this part."""
    caption_weights: Float32[np.ndarray, " m"]
    splits: Sequence[str]
    examples: Sequence[Json]
    """One per example, or none."""
    bad_samples: Sequence[tuple[str, str]] = ()
    """(name, reason) of each skipped picture."""
    view_tokens: Int32[np.ndarray, "views k"] | None = None
    """The tokens of further views of the same pictures, one picture after the other."""
    pixel_hashes: UInt64[np.ndarray, " n"] | None = None
    """A hash of the pixels of each example's picture."""
    columns: Sequence[Json] | None = None
    """The columns of the source's row of each example."""


class RecordsWriter:
    """Appends parts to the files of an unfinished folder."""

    def __init__(
        self, folder: Path, stack: ExitStack, split_names: Sequence[str], kinds: dict[str, str]
    ) -> None:
        self.folder, self.names, self.counts = folder, sorted(split_names), Counter[str]()
        if len(self.names) > 256:
            raise ValueError(
                f"{len(self.names)} different splits, such as {self.names[0]!r}; at most 256 fit"
            )
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self._stack, self._kinds = stack, kinds
        self.about: Json = {}
        """Further keys of records.json; they may be changed until the end."""
        self._arrays: dict[str, ArrayWriter] = {}
        self._examples = stack.enter_context(ExampleWriter(folder))
        self._bad = stack.enter_context((folder / BAD_SAMPLES).open("w", encoding="utf-8"))
        self._columns = ColumnWriter(folder)
        stack.callback(self._columns.close)
        self._captions = 0

    def add(self, part: Part) -> None:
        """Append the examples of a part."""
        self._bad.writelines(bad_lines(part.bad_samples))
        if not len(part.image_tokens):
            return
        ends = part.caption_offsets if not self._captions else part.caption_offsets[1:]
        arrays = {
            "image_tokens": part.image_tokens,
            "text_tokens": part.text_tokens,
            "text_lengths": part.text_lengths,
            "caption_offsets": ends + self._captions,
            "caption_weights": part.caption_weights,
            "split": np.array([self._numbers[name] for name in part.splits], np.uint8),
            "view_tokens": part.view_tokens,
            "pixel_hashes": part.pixel_hashes,
        }
        for name, array in arrays.items():
            if array is not None:
                self._open(name).add(array)
        self._captions += len(part.text_tokens)
        self.counts.update(part.splits)
        self._examples.add(part.examples)
        if part.columns is not None:
            self._columns.add(part.columns)

    def _open(self, name: str) -> ArrayWriter:
        if name not in self._arrays:
            writer = ArrayWriter(self.folder, name, self._kinds[name])
            self._arrays[name] = self._stack.enter_context(writer)
        return self._arrays[name]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of each array so far."""
        return {name: array.shape for name, array in self._arrays.items()}

    def describe(self) -> Json:
        """The entries of records.json about the arrays. Their files must be closed."""
        shapes = {name: self.shapes[name] for name in (*ARRAYS, *EXTRA) if name in self.shapes}
        arrays = {
            name: {"type": self._kinds[name], "shape": shape} for name, shape in shapes.items()
        }
        return {"arrays": arrays, **digest_arrays(self.folder, arrays, self.names, TRAINED_ON)}


@contextmanager
def new_records(
    out: Path,
    split_names: Sequence[str],
    *,
    source: str | Sequence[str],
    reading: ReadingConfig = PLAIN,
    tokenizer_folder: Path | None = None,
    vqgan_folder: Path | None = None,
    **about: Any,
) -> Iterator[RecordsWriter]:
    """A context with a writer. At its end the records appear in `out`, atomically.

    `about` must have codebook_size and text_vocab_size; other keys are stored unchanged.
    """
    kinds = ARRAYS | EXTRA
    for size, names in _WIDE.items():
        if about[size] > 1 << 16:
            kinds |= dict.fromkeys(names, "u32")
    with new_folder(out) as folder:
        with ExitStack() as stack:
            writer = RecordsWriter(folder, stack, split_names, kinds)
            writer.about = dict(about)
            yield writer
        parts = {}
        for name, part in (("tokenizer", tokenizer_folder), ("vqgan", vqgan_folder)):
            if part is not None:
                copy_folder(part, folder / name)
                parts[name] = digest_folder(folder / name)
        image, text = (writer.shapes[name] for name in ("image_tokens", "text_tokens"))
        _write_about(
            folder / MARKER,
            {
                "format": FORMAT,
                **_sizes(image, text),
                "split_names": writer.names,
                "counts": {name: writer.counts[name] for name in writer.names},
                **_origin(out, [source] if isinstance(source, str) else source, reading),
                **writer.describe(),
                "tokenizer_digest": parts.get("tokenizer"),
                "vqgan_digest": parts.get("vqgan"),
                **writer.about,
            },
        )


def write_records(out: Path, part: Part, **about: Any) -> None:
    """Write records that are in memory into a folder, atomically; `about` as for `new_records`."""
    with new_records(out, sorted(set(part.splits)), **about) as writer:
        writer.add(part)


def _origin(out: Path, sources: Sequence[str], reading: ReadingConfig) -> Json:
    """The source's paths relative to `out` or its addresses, and the settings of reading."""
    relative = [
        without_secrets(address)
        if scheme_of(address)
        else os.path.relpath(os.path.expanduser(address), out.absolute())
        for address in sources
    ]
    return {"source": relative[0], "sources": relative, "reading": asdict(reading)}


def _sizes(image: tuple[int, ...], text: tuple[int, ...]) -> dict[str, int]:
    """Sizes for records.json, by the shapes of the two kinds of tokens."""
    return {
        "count": image[0],
        "grid_size": round(image[1] ** 0.5),
        "image_length": image[1],
        "text_length": text[1],
    }


def _write_about(path: Path, about: dict[str, object]) -> None:
    # In ASCII: the name of a file or folder need not be UTF-8.
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

"""Token records out of tables that hold image tokens already, as dalle-mini wrote them: a column
`encoding` of codes and one of captions. No picture is needed. Every other column is kept, for
data.filter.

python -m data.encoded encoded/*.parquet --vqgan VQGAN_OF_THE_CODES --out records/mine
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from common import clone
from common.files import check_free
from common.split_names import HELD_OUT, TRAIN
from data.encoding.writing import Part, new_records
from data.pictures.reading import describe_skipped
from data.sources import Captions, printable
from data.sources.captions import texts
from data.sources.captions.splits import split_from
from data.sources.files.tree import walk
from data.sources.tables.rows import TableFile, read_rows
from data.sources.tables.separated import BEYOND
from data.text.captions import Normalizer, copy_tokenizer, describe, normalizer_of, open_captions
from data.text.tokens import check_vocab_size, train_tokenizer

RULE = "tokens 1"
"""The name in records.json of the rule for held-out pictures: by a hash of their tokens."""
_ENDINGS = ("parquet", "jsonl", "ndjson", "json", "csv", "tsv")
FIRST_IN_HELP = ("tables", "out", "vqgan", "tokenizer", "text_length")


@dataclass(frozen=True)
class EncodedConfig:
    """The tables, the VQGAN of their codes, and the folder for the records."""

    tables: tuple[str, ...] = field(
        metadata={
            "nargs": "+",
            "positional": True,
            "help": "Parquet, jsonl, csv or tsv files, or folders of them, with the columns "
            "caption and encoding.",
        }
    )
    """Tables of captions and codes."""
    vqgan: str = "vqgan/general"
    """Folder of the VQGAN that made the codes."""
    out: str = "records/encoded"
    """Folder for the records; it must be new."""
    column: str = "encoding"
    """Column of the codes: lists of whole numbers, or texts of such lists."""
    caption_column: str = ""
    """Column of the captions; by default the first known name of docs/layouts.md."""
    tokenizer: str | None = None
    """Folder of a tokenizer; by default one is trained on the training captions."""
    normalizer: Normalizer | None = None
    """Normaliser of captions before the tokenizer. Default: the one that its folder names."""
    vocab_size: int = 2048
    """Text tokens of a newly trained tokenizer."""
    text_length: int = 24
    """Tokens per caption, the end included; longer captions are truncated."""
    held_out: float = 0.05
    """Share of the pictures that are kept from training, the same tokens together; tables with a
    column split keep theirs."""


@dataclass
class _Rows:
    """The usable rows, and why the others are not."""

    tokens: list[np.ndarray] = field(default_factory=list)
    captions: list[Captions] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    """The other columns of each row."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """Reason → number of rows with something that is not kept."""


def main(config: EncodedConfig) -> None:
    """Write the records, and print how many pictures each split has."""
    from vqgan import pretrained

    if not 0 <= config.held_out < 1:
        raise ValueError(f"held_out {config.held_out} is not between 0 and 1")
    if not 2 <= config.text_length <= 4096:
        raise ValueError(f"text_length {config.text_length} is not between 2 and 4096")
    if config.tokenizer is None:
        check_vocab_size(config.vocab_size)
    out = Path(config.out)
    check_free(out)
    config = clone.with_found(config, "vqgan", "tokenizer")
    vqgan, _ = pretrained.load(config.vqgan)
    rows = read(config, vqgan.image_length, vqgan.codebook_size)
    num_cut = write(config, rows, vqgan.codebook_size)
    if rows.skipped:
        print(describe_skipped(rows.skipped, len(rows.skipped) + len(rows.tokens)))
    for note, count in rows.notes.items():
        print(f"{count:,} rows: {note}")
    if num_cut:
        print(f"{num_cut:,} captions were truncated to text_length {config.text_length}")
    counts = ", ".join(f"{n:,} {name}" for name, n in sorted(Counter(rows.splits).items()))
    print(f"{out}: {len(rows.tokens):,} pictures ({counts})")


def read(config: EncodedConfig, length: int, codebook_size: int) -> _Rows:
    """All rows of the tables. Raises ValueError for codes that are not of the VQGAN, and if no row
    is left to train on."""
    rows = _Rows()
    for table in _tables(config.tables):
        for number, row in enumerate(read_rows(table), start=1):
            name = printable(f"{table.name} row {number}")
            if config.column not in row:
                columns = printable(", ".join(map(str, row))[:200])
                raise ValueError(
                    f"{name} has no column {config.column!r}; its columns are {columns}"
                )
            tokens = _codes(row[config.column])
            captions = texts.from_columns(row, config.caption_column).captions
            if tokens is None or not captions:
                rows.skipped.append((name, "no codes" if tokens is None else "no caption"))
                continue
            _check(name, tokens, length, codebook_size, config.vqgan)
            others = {k: v for k, v in row.items() if k not in (config.column, BEYOND)}
            _add(rows, name, tokens, captions, others, config.held_out)
    if TRAIN not in rows.splits:
        raise ValueError(
            f"{', '.join(config.tables)} leave nothing to train on: {len(rows.tokens):,} usable "
            f"rows, {len(rows.skipped):,} without codes or caption; held_out is {config.held_out}"
        )
    return rows


def _add(
    rows: _Rows,
    name: str,
    tokens: np.ndarray,
    captions: Captions,
    others: Mapping[str, object],
    held_out: float,
) -> None:
    """Add a usable row, with its other columns."""
    is_held_out = zlib.crc32(tokens.astype("<i4").tobytes()) < held_out * 2**32
    split = split_from(others.get("split"))
    rows.splits.append(split or (HELD_OUT if is_held_out else TRAIN))
    example = {"key": name, "source_index": len(rows.tokens), "file": name, "member": ""}
    example |= {"caption": captions[0][0], "split": rows.splits[-1]}
    rows.examples.append({**example, **texts.attributes_from(others)})
    columns, notes = texts.columns_from(others)
    rows.columns.append(columns)
    rows.notes.update(dict.fromkeys(notes, 1))
    rows.tokens.append(tokens.astype(np.uint16 if tokens.max() < 1 << 16 else np.uint32))
    rows.captions.append(captions)


def _tables(paths: Sequence[str]) -> Iterator[TableFile]:
    for path in map(Path, paths):
        tree = walk(path if path.is_dir() else path.parent)
        names = tree.ending(*_ENDINGS) if path.is_dir() else [path.name]
        if not names or not all((tree.folder / name).is_file() for name in names):
            raise ValueError(f"no table in {path}: looked for {', '.join(_ENDINGS)}")
        yield from (TableFile(tree, name) for name in names)


def _codes(value: object) -> Int32[np.ndarray, " k"] | None:
    """The codes in a cell; None for a cell that holds none."""
    try:
        codes = np.asarray(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, RecursionError):
        return None
    is_list = codes.ndim == 1 and codes.size and codes.dtype.kind in "iu"
    # Numbers beyond 32 bits are not codes of any VQGAN; the message says so.
    least = -1 if codes.dtype.kind == "i" else 0  # NumPy's unsigned numbers refuse -1
    return np.clip(codes, least, (1 << 31) - 1).astype(np.int32) if is_list else None


def _check(
    name: str, tokens: Int32[np.ndarray, " k"], length: int, codebook_size: int, vqgan: str
) -> None:
    if len(tokens) != length:
        raise ValueError(
            f"{name} has {len(tokens):,} codes, and a picture of {vqgan} has {length:,}; name the "
            f"VQGAN that made them with --vqgan"
        )
    if tokens.min() < 0 or tokens.max() >= codebook_size:
        code = tokens.min() if tokens.min() < 0 else tokens.max()
        raise ValueError(
            f"{name} holds the code {code:,}, and {vqgan} has {codebook_size:,} codes; name the "
            f"VQGAN that made them with --vqgan"
        )


def write(config: EncodedConfig, rows: _Rows, codebook_size: int) -> int:
    """Write the records. Returns the number of truncated captions."""
    with tempfile.TemporaryDirectory() as temporary:
        trained, folder = Path(temporary) / "trained", Path(temporary) / "tokenizer"
        if config.tokenizer is None:
            both = zip(rows.captions, rows.splits, strict=True)
            training = (text for pairs, split in both if split == TRAIN for text, _ in pairs)
            train_tokenizer(training, config.vocab_size, trained)
        given = Path(config.tokenizer) if config.tokenizer else trained
        copy_tokenizer(given, folder, config.normalizer or normalizer_of(given))
        tokenizer = open_captions(folder)
        every = [text for pairs in rows.captions for text, _ in pairs]
        text_tokens, text_mask, num_cut = tokenizer.encode(every, config.text_length)
        part = Part(
            np.stack(rows.tokens).astype(np.int32),
            text_tokens,
            text_mask.sum(axis=1, dtype=np.int32),
            np.cumsum([0, *map(len, rows.captions)], dtype=np.int64),
            np.array([weight for pairs in rows.captions for _, weight in pairs], np.float32),
            rows.splits,
            rows.examples,
            rows.skipped,
            columns=rows.columns,
        )
        with new_records(
            Path(config.out),
            sorted(set(rows.splits)),
            source=config.tables,
            tokenizer_folder=folder,
            vqgan_folder=Path(config.vqgan),
            codebook_size=codebook_size,
            text_vocab_size=tokenizer.vocab_size,
            num_captions_cut=num_cut,
            num_skipped=len(rows.skipped),
            held_out_by=RULE,
            text=describe(folder, config.text_length),
        ) as records:
            records.add(part)
    return num_cut


if __name__ == "__main__":
    import runtime
    from command_line.parser import run

    runtime.prepare()
    run(
        main, EncodedConfig, prog="python -m data.encoded", about=__doc__ or "", first=FIRST_IN_HELP
    )

"""A source to token records: pictures through a VQGAN's encoder, captions through a tokenizer."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from tqdm import tqdm

from data.captions import Normalizer, copy_tokenizer, describe, normalizer_of, open_captions
from data.reading import Notes, read_pictures, tell_skipped
from data.records import write_records
from data.sources import Captions, Example, ReadingConfig, Source, printable
from data.splits import RULE, split_of
from data.text import train_tokenizer
from filling import filled
from pixels import to_floats
from split_names import GALLERY, HELD_OUT, TRAIN

_MAX_NAMED = 1000  # skipped pictures that records.json names


@dataclass(frozen=True)
class PictureEncoder:
    """The part of a VQGAN that encodes pictures."""

    image_size: int
    codebook_size: int
    encode: Callable[[Float32[np.ndarray, "b y x 3"]], Int32[np.ndarray, "b k"]]
    batch_size: int = 64
    """Pictures per call; always exactly so many, for one compiled program."""


@dataclass(frozen=True)
class CaptionOptions:
    """Settings for captions, and the share of the pictures that is held out."""

    tokenizer: Path | None
    """An existing tokenizer; None trains one on the training captions."""
    vocab_size: int
    text_length: int
    held_out: float
    normalizer: Normalizer | None = None
    """Applied to captions before the tokenizer; None: the one that the tokenizer's folder names."""


@dataclass
class Collected:
    """The results of one walk through the source. Entry i of each list belongs to the same
    picture."""

    image_tokens: list[Int32[np.ndarray, "b k"]] = field(default_factory=list)
    captions: list[Captions] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


def make_records(
    source: Source,
    encoder: PictureEncoder,
    options: CaptionOptions,
    out: Path,
    *,
    source_names: Sequence[str],
    reading: ReadingConfig,
    vqgan_folder: Path | None = None,
    **about: Any,
) -> list[str]:
    """Write the records of a whole source. Returns sentences about oddities.

    Raises:
        ValueError: no picture is usable, or none is left to train on.
    """
    if options.tokenizer is not None:  # refused by its own name, and before pictures are encoded
        open_captions(options.tokenizer, options.normalizer)
    found = collect(source, encoder, options.held_out, reading)
    training = [c for c, split in zip(found.captions, found.splits, strict=True) if split == TRAIN]
    if not training:
        raise ValueError(_nothing_to_train_on(source, found, options.held_out))
    texts = [text for captions in found.captions for text, _ in captions]
    with tempfile.TemporaryDirectory() as temporary:
        made, folder = Path(temporary) / "made", Path(temporary) / "tokenizer"
        if options.tokenizer is None:
            spoken = (text for captions in training for text, _ in captions)
            train_tokenizer(spoken, options.vocab_size, made)
        given = options.tokenizer or made
        copy_tokenizer(given, folder, options.normalizer or normalizer_of(given))
        tokenizer = open_captions(folder)
        text_tokens, text_mask, num_cut = tokenizer.encode(texts, options.text_length)
        write_records(
            out,
            image_tokens=np.concatenate(found.image_tokens),
            text_tokens=text_tokens,
            text_lengths=text_mask.sum(axis=1, dtype=np.int32),
            caption_offsets=_offsets(found.captions),
            caption_weights=np.array([w for c in found.captions for _, w in c], np.float32),
            splits=found.splits,
            examples=found.examples,
            source=source_names,
            reading=reading,
            bad_samples=found.skipped,
            tokenizer_folder=folder,
            vqgan_folder=vqgan_folder,
            codebook_size=encoder.codebook_size,
            text_vocab_size=tokenizer.vocab_size,
            num_captions_cut=num_cut,
            num_skipped=len(found.skipped),
            skipped=[f"{name}: {why}" for name, why in found.skipped[:_MAX_NAMED]],
            held_out_by=RULE,
            damaged_files={printable(k): printable(v) for k, v in source.damage.items()},
            left_out=dict(sorted(source.unused.counts.items())),
            text=describe(folder, options.text_length),
            **about,
        )
    return _oddities(source, found, num_cut, options.text_length)


def _nothing_to_train_on(source: Source, found: Collected, held_out: float) -> str:
    counts = Counter(found.splits)
    said = ", ".join(f"{count:,} {printable(name)}" for name, count in counts.most_common(5))
    why = f"held_out is {held_out}"
    if set(counts) != {HELD_OUT}:
        why = (
            f"the source itself calls them {said} (its column or folders of splits); "
            f"--splits=none divides them anew"
        )
    return f"{source.path} leaves nothing to train on: {len(found.splits)} usable pictures, {why}"


def collect(
    source: Source, encoder: PictureEncoder, held_out: float, config: ReadingConfig
) -> Collected:
    """Walk through the source once, and encode the usable pictures."""
    found, waiting = Collected(), []
    readings = read_pictures(source, encoder.image_size, need_captions=True, config=config)
    for reading in tqdm(
        readings, desc="encoding", total=len(source), unit=" pictures", disable=None
    ):
        if reading.example is None or reading.pixels is None:
            found.skipped.append((printable(reading.name), printable(reading.problem)))
            continue
        found.notes.add(reading)
        split = reading.example.split or split_of(reading.pixels, held_out)
        _note(found, reading.index, reading.example, split)
        waiting.append(reading.pixels)
        if len(waiting) == encoder.batch_size:
            found.image_tokens.append(_encode(encoder, waiting))
            waiting = []
    if waiting:
        found.image_tokens.append(_encode(encoder, waiting))
    if not found.examples:
        raise ValueError(f"{source.path}: {tell_skipped(found.skipped, len(source))}; none is left")
    return found


def _note(found: Collected, index: int, example: Example, split: str) -> None:
    found.captions.append((("", 1.0),) if split == GALLERY else example.captions)
    found.splits.append(split)
    found.examples.append(
        {
            "key": example.key,
            "source_index": index,
            "file": example.file,
            "member": example.member,
            "caption": example.captions[0][0],
            "split": split,
            **example.attributes,
        }
    )


def _encode(
    encoder: PictureEncoder, pictures: list[UInt8[np.ndarray, "y x 3"]]
) -> Int32[np.ndarray, "b k"]:
    rows = filled(np.arange(encoder.batch_size), len(pictures))
    pixels = to_floats(np.stack([pictures[row] for row in rows]))
    image_tokens = np.asarray(encoder.encode(pixels), np.int32)[: len(pictures)]
    assert image_tokens.max() < encoder.codebook_size
    return image_tokens


def _offsets(captions: list[Captions]) -> Int64[np.ndarray, " offsets"]:
    return np.concatenate([[0], np.cumsum([len(c) for c in captions])]).astype(np.int64)


def _oddities(source: Source, found: Collected, num_cut: int, text_length: int) -> list[str]:
    said = source.oddities() + found.notes.sentences()
    if found.skipped:
        said.append(tell_skipped(found.skipped, len(source)))
    if num_cut:
        said.append(f"{num_cut:,} captions were truncated to text_length {text_length}")
    return said

"""Joins shards to one folder of token records, and tokenises the captions. The result does not
depend on the size of the shards or on the processes that made them."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.split_names import HELD_OUT, TRAIN
from data.encoding.shards import Shard, ShardFolder
from data.encoding.splits import RULE
from data.encoding.tokenise import PictureOptions
from data.encoding.writing import Part, new_records
from data.pictures.reading import Notes, describe_skipped
from data.pictures.views import Views
from data.sources import Source, printable
from data.text.captions import Normalizer, copy_tokenizer, describe, normalizer_of, open_captions
from data.text.tokens import TextTokenizer, train_tokenizer

_MAX_NAMED = 1000  # skipped pictures that records.json names


@dataclass(frozen=True)
class CaptionOptions:
    """Settings for captions."""

    tokenizer: Path | None
    """The tokenizer's folder; None = train one on the training captions."""
    vocab_size: int
    text_length: int
    normalizer: Normalizer | None = None
    """Applied to captions before the tokenizer; None = the one that the tokenizer's folder names.
    """


@dataclass(frozen=True)
class Totals:
    """Numbers about the content of all shards."""

    splits: Mapping[str, int]
    skipped: Counter[str]
    """Reason → number of skipped pictures."""
    notes: Notes

    @property
    def usable(self) -> int:
        """The number of usable pictures."""
        return sum(self.splits.values())


def _sum_up(shards: ShardFolder) -> Totals:
    splits, skipped, notes = Counter[str](), Counter[str](), Notes()
    for head in shards.heads():
        splits.update(head.splits)
        skipped.update(head.skipped)
        notes.join(head.notes, head.first)
    return Totals(splits, skipped, notes)


def _check_usable(
    source: Source, shards: ShardFolder, totals: Totals, pictures: PictureOptions
) -> None:
    """Raise ValueError if too few pictures are usable, or none is left to train on. The shards are
    removed then if other settings need other shards."""
    most, bad = pictures.reading.max_bad_fraction, totals.skipped.total()
    is_bad = most < 1 and bad > most * (bad + totals.usable)
    if totals.usable and totals.splits.get(TRAIN) and not is_bad:
        return
    named = describe_skipped(_first_skipped(shards, 5), len(source), totals.skipped)
    if totals.usable and is_bad:
        raise ValueError(
            f"{source.path}: {named}; that is more than max_bad_fraction {most}: mend them, or use "
            f"the other {totals.usable:,} with --max_bad_fraction=1"
        )
    problem = _nothing_to_train_on(source, totals, pictures.held_out)
    if not totals.usable:
        problem = f"{source.path}: {named}; none is left"
    shards.remove()
    raise ValueError(problem)


def join_shards(
    source: Source,
    shards: ShardFolder,
    options: CaptionOptions,
    pictures: PictureOptions,
    out: Path,
    source_names: Sequence[str],
    **about: Any,
) -> list[str]:
    """Write the records of all shards, and return warnings. `about` is as for `new_records`, with
    the VQGAN's folder and the size of its codebook.

    Raises:
        ValueError: too few pictures are usable, or none is left to train on.
    """
    totals = _sum_up(shards)
    _check_usable(source, shards, totals, pictures)
    with tempfile.TemporaryDirectory() as temporary:
        trained, folder = Path(temporary) / "trained", Path(temporary) / "tokenizer"
        if options.tokenizer is None:
            train_tokenizer(_training_texts(shards), options.vocab_size, trained)
        given = options.tokenizer or trained
        copy_tokenizer(given, folder, options.normalizer or normalizer_of(given))
        tokenizer = open_captions(folder)
        skipped = _first_skipped(shards, _MAX_NAMED)
        with new_records(
            out,
            list(totals.splits),
            source=source_names,
            reading=pictures.reading,
            tokenizer_folder=folder,
            text_vocab_size=tokenizer.vocab_size,
            num_captions_cut=0,
            num_skipped=totals.skipped.total(),
            skipped=[f"{name}: {why}" for name, why in skipped],
            held_out_by=RULE,
            damaged_files={printable(k): printable(v) for k, v in source.damage.items()},
            left_out=dict(sorted(source.unused.counts.items())),
            text=describe(folder, options.text_length),
            **about,
        ) as records:
            for shard in shards:
                part, num_cut = _part(shard, tokenizer, options.text_length, pictures.views)
                records.about["num_captions_cut"] += num_cut
                records.add(part)
    num_cut = records.about["num_captions_cut"]
    return _oddities(source, totals, skipped, num_cut, options.text_length)


def _training_texts(shards: Iterable[Shard]) -> Iterator[str]:
    return (
        text
        for shard in shards
        for captions, split in zip(shard.captions, shard.splits, strict=True)
        if split == TRAIN
        for text, _ in captions
    )


def _first_skipped(shards: ShardFolder, most: int) -> list[tuple[str, str]]:
    """(name, reason) of the first skipped pictures."""
    skipped: list[tuple[str, str]] = []
    for number, head in enumerate(shards.heads()):
        if head.skipped and len(skipped) < most:
            skipped += shards.read(number).skipped[: most - len(skipped)]
    return skipped


def _part(
    shard: Shard, tokenizer: TextTokenizer, text_length: int, views: Views
) -> tuple[Part, int]:
    """A shard with its captions as tokens, and the number of captions that were truncated."""
    texts = [text for captions in shard.captions for text, _ in captions]
    text_tokens, text_mask, num_cut = tokenizer.encode(texts, text_length)
    part = Part(
        image_tokens=shard.image_tokens,
        text_tokens=text_tokens,
        text_lengths=text_mask.sum(axis=1, dtype=np.int32),
        caption_offsets=np.cumsum([0, *map(len, shard.captions)], dtype=np.int64),
        caption_weights=np.array([w for texts in shard.captions for _, w in texts], np.float32),
        splits=shard.splits,
        examples=shard.examples,
        bad_samples=shard.skipped,
        view_tokens=shard.view_tokens if views.count > 1 else None,
        pixel_hashes=shard.pixel_hashes,
        columns=shard.columns,
    )
    return part, num_cut


def _nothing_to_train_on(source: Source, totals: Totals, held_out: float) -> str:
    counts = Counter(totals.splits)
    names = ", ".join(f"{count:,} {printable(name)}" for name, count in counts.most_common(5))
    why = f"held_out is {held_out}; try --held_out=0"
    if set(counts) != {HELD_OUT}:
        why = (
            f"the source itself calls them {names} (its column or folders of splits); "
            f"--splits=none divides them again"
        )
    return f"{source.path} leaves nothing to train on: {totals.usable} usable pictures, {why}"


def _oddities(
    source: Source,
    totals: Totals,
    skipped: Sequence[tuple[str, str]],
    num_cut: int,
    text_length: int,
) -> list[str]:
    sentences = source.warnings() + totals.notes.sentences()
    if totals.skipped:
        sentences.append(describe_skipped(skipped, len(source), totals.skipped))
    if num_cut:
        sentences.append(f"{num_cut:,} captions were truncated to text_length {text_length}")
    return sentences

"""The exam of evaluate.py: held-out prompts of records, and the real pictures to compare with."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from common.json_files import Json
from common.split_names import NOT_HELD_OUT, TRAIN
from data.exams.gallery import Gallery
from data.exams.style_codes import MOST_PICTURES, StyleCodes, count_codes
from data.pictures.reading import Reading, check_same, read_pictures
from data.records import Records
from data.sources import open_source
from data.sources.base import printable
from data.sources.files.addresses import scheme_of
from data.text.words import training_words, unknown_words

Half = Literal["tune", "report", "all"]
Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Selection:
    """Settings: which prompts are drawn, and which real pictures they are compared with."""

    splits: tuple[str, ...] = ()
    """Names of the splits. Default: every held-out split."""
    half: Half = "report"
    max_prompts: int = 64
    """Prompts per split; 0 = all."""
    max_gallery: int = 20_000
    num_training: int = 0
    """Number of training captions that are drawn as well, evenly chosen, as the split "train"."""


@dataclass(frozen=True)
class Exam:
    """The prompts of each split, and the real pictures they are compared with."""

    records: Records
    gallery: Gallery
    rows: dict[str, Int64[np.ndarray, " p"]]
    """Split → the rows of its prompts' examples in the records."""
    targets: dict[str, Int64[np.ndarray, " p"]]
    """Split → the indices of these examples in the gallery."""
    styles: StyleCodes | None = None
    """A classifier of styles by image tokens, from the training pictures; None without styles."""

    def prompts(self, split: str) -> list[str]:
        """The first caption of each example of a split."""
        return [self.records.examples[i]["caption"] for i in self.rows[split]]

    def judge(self, split: str, pictures: UInt8[np.ndarray, "p k y x 3"]) -> Answers:
        """Question → answers [prompt, picture]: 0, 1 or NaN, as by Gallery.judge."""
        count, per_prompt = pictures.shape[:2]
        targets = np.repeat(self.targets[split], per_prompt)
        answers = self.gallery.judge(pictures.reshape(-1, *pictures.shape[2:]), targets)
        return {name: answer.reshape(count, per_prompt) for name, answer in answers.items()}

    def judge_tokens(self, split: str, image_tokens: Integer[np.ndarray, "p k n"]) -> Answers:
        """The same for the question that the pictures' image tokens answer, if styles are known."""
        if self.styles is None:
            return {}
        asked = [self.records.examples[i].get("style") for i in self.rows[split]]
        return {"style_codes": self.styles.are_right(image_tokens, asked)}

    def chance(self, split: str) -> Answers:
        """The mean answers about random real pictures, and about a style chosen at random."""
        by_lot = {} if self.styles is None else {"style_codes": 1 / len(self.styles.names)}
        return {
            **self.gallery.chance(self.targets[split]),
            **{name: np.float32(share) for name, share in by_lot.items()},
        }


def open_exam(records: Records, image_size: int, selection: Selection) -> Exam:
    """The prompts and the real pictures of an evaluation.

    Raises:
        ValueError: there are no held-out examples, or the pictures are missing.
    """
    asked = prompts_of(records, selection)
    rows = {split: chosen for split, chosen in asked.items() if len(chosen)}
    if not rows:
        counts = ", ".join(f"{len(records.rows(s))} {s}" for s in records.split_names)
        raise ValueError(
            f"{records.folder} has no held-out prompts to draw ({counts}); encode with a larger "
            "--held_out"
        )
    if selection.num_training:
        rows[TRAIN] = evenly(records.rows(TRAIN), selection.num_training)
    needed = np.concatenate(list(rows.values()))
    gallery, chosen = open_gallery(records, needed, selection.max_gallery, image_size)
    targets = {split: np.searchsorted(chosen, indices) for split, indices in rows.items()}
    styles = count_codes(records, evenly(records.rows(TRAIN), MOST_PICTURES))
    return Exam(records, gallery, rows, targets, styles)


def open_gallery(
    records: Records,
    needed: Int64[np.ndarray, " p"],
    most: int,
    image_size: int,
    attributes: Callable[[Json], Json] = lambda example: example,
) -> tuple[Gallery, Int64[np.ndarray, " n"]]:
    """(the real pictures, the rows of their examples), chosen as by `choose_gallery`. Raises
    ValueError if the pictures are missing."""
    chosen = choose_gallery(records, needed, most)
    examples = [records.examples[i] for i in chosen]
    pictures = read_real_pictures(records, examples, image_size)
    in_training = np.array([example["split"] == TRAIN for example in examples])
    return Gallery(pictures, list(map(attributes, examples)), in_training), chosen


def evenly(rows: Int64[np.ndarray, " n"], most: int) -> Int64[np.ndarray, " m"]:
    """The rows, thinned out evenly to at most `most`, in order."""
    count = min(len(rows), most)
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def never_seen(records: Records, rows: Int64[np.ndarray, " p"]) -> list[str]:
    """The captions of examples whose concept no training example has. In records without concepts:
    captions without a word from the training captions."""
    training = [records.examples[i] for i in records.rows(TRAIN)]
    concepts = {example["concept"] for example in training if "concept" in example}
    words = None if concepts else training_words(records)
    captions = []
    for example in (records.examples[i] for i in rows):
        if concepts:
            is_new = example.get("concept") not in concepts
        else:
            is_new = words is not None and bool(unknown_words([example["caption"]], words))
        captions += [example["caption"]] if is_new else []
    return captions


def find_unseen(records: Records, selection: Selection) -> dict[str, list[str]]:
    """Split → prompts of things that training never showed, for splits in which most are."""
    rows = prompts_of(records, selection)
    unseen = {split: never_seen(records, chosen) for split, chosen in rows.items()}
    return {split: some for split, some in unseen.items() if len(some) > len(rows[split]) / 2}


def with_prompts(records: Records, selection: Selection) -> Selection:
    """The selection; if its half has no prompts, because few pictures are held out, with both
    halves."""
    both = replace(selection, half="all")
    chosen, of_both = (prompts_of(records, wanted).values() for wanted in (selection, both))
    return both if any(map(len, of_both)) and not any(map(len, chosen)) else selection


def prompts_of(records: Records, selection: Selection) -> dict[str, Int64[np.ndarray, " _"]]:
    """Split → the rows of the examples whose captions are drawn."""
    splits = held_out(records, selection)
    return {split: choose_prompts(records, split, selection) for split in splits}


def held_out(records: Records, selection: Selection) -> list[str]:
    """The selected splits."""
    known = [name for name in records.split_names if name not in NOT_HELD_OUT]
    for name in selection.splits:
        if name not in known:
            raise ValueError(f"no held-out split {name!r}; there are: {', '.join(known)}")
    return list(selection.splits) or known


def choose_prompts(records: Records, split: str, selection: Selection) -> Int64[np.ndarray, " p"]:
    """The rows of one half of a split, at most max_prompts, chosen by a hash of their keys."""
    hashes = {int(i): zlib.crc32(records.examples[i]["key"].encode()) for i in records.rows(split)}
    halves = {"tune": (0,), "report": (1,), "all": (0, 1)}[selection.half]
    of_half = sorted((i for i in hashes if hashes[i] % 2 in halves), key=lambda i: hashes[i])
    return np.array(sorted(of_half[: selection.max_prompts or None]), np.int64)


def choose_gallery(
    records: Records, needed: Int64[np.ndarray, " p"], limit: int
) -> Int64[np.ndarray, " n"]:
    """The rows of all examples in order; of more than `limit`, the needed ones and an even choice
    of the others."""
    others = np.setdiff1d(np.arange(len(records)), needed)
    room = min(len(others), max(limit - len(needed), 0))
    even = np.arange(room) * len(others) // max(room, 1)
    return np.sort(np.concatenate([needed, others[even]]))


def read_real_pictures(
    records: Records, examples: Sequence[Json], image_size: int
) -> UInt8[np.ndarray, "n y x 3"]:
    """The pixels of the examples, from the source that the records name.

    Raises:
        ValueError: the pictures are missing, or others are in their places.
    """
    try:
        reading = replace(records.reading, max_bad_fraction=1.0)
        source = open_source(records.sources, need_captions=False, config=reading)
        indices = [e["source_index"] for e in examples]
        if max(indices) >= len(source):
            raise ValueError(
                f"there are {len(source):,} pictures now and were {max(indices) + 1:,} or more; "
                f"the source has changed, encode again"
            )
        readings = read_pictures(source, image_size, indices, config=reading)
        return np.stack([_checked(r, e) for r, e in zip(readings, examples, strict=True)])
    except ValueError as error:
        raise ValueError(
            f"the pictures that {records.folder} was made from cannot be read again from "
            f"{', '.join(records.sources)}: {_describe_moved(records) or error}"
        ) from None


def _describe_moved(records: Records) -> str:
    """A text about the first source that is not there; empty if all are. Records name their sources
    relative to their own folder."""
    gone = [name for name in records.sources if not scheme_of(name) and not Path(name).exists()]
    if not gone:
        return ""
    return (
        f"there is no {printable(gone[0])}. If the pictures or the records were moved: "
        f"ln -s PICTURES {printable(gone[0])} (a data set of the Hugging Face hub needs a network)"
    )


def _checked(reading: Reading, example: Mapping[str, object]) -> UInt8[np.ndarray, "y x 3"]:
    """The pixels. Raises ValueError if the picture is unreadable, or no longer the example's."""
    check_same(reading, example)
    if reading.pixels is None:
        raise ValueError(f"{reading.name}: {reading.problem}")
    return reading.pixels

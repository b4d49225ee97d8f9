"""Several folders of token records as one stream of training examples, mixed by weights.

The order is a pure function of (seed, position), as for one folder. A cycle has as many positions
as the sum of the weights. In it each folder has `weight` positions, evenly spread. Each folder
counts its own positions and epochs.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from common import clone
from common.batch import TokenBatch
from common.split_names import TRAIN
from data.batches import Batches, open_batches
from data.looking.rules import describe, format_table, keep_for_training
from data.order import hash_of
from data.records import Records, open_whole
from data.text.captions import hash_vocabulary

_WEIGHT = re.compile(r"[-+]?[0-9./_]{1,30}([eE][-+]?[0-9]{1,2})?")
_PART = 7  # purpose of random numbers, mixed into their keys
_MOST_CYCLE = 3 * 10**9  # its square fits in 63 bits


@dataclass(frozen=True)
class RecordSets:
    """One or several folders of records with the same tokenizer and VQGAN."""

    parts: tuple[Records, ...]
    weights: tuple[int, ...]
    """Examples of each folder in a cycle."""
    rules: tuple[str, ...] = ()
    """The rules of data.filter."""
    table: tuple[str, ...] = ()
    """Lines of text: how many examples each rule removed."""

    @property
    def first(self) -> Records:
        """The first folder. The run uses its tokenizer, VQGAN and held-out splits."""
        return self.parts[0]

    @property
    def num_training(self) -> int:
        """The number of training examples in all folders."""
        return sum(len(records.rows(TRAIN)) for records in self.parts)

    def used_codes(self) -> Bool[np.ndarray, " k"]:
        """True for each code of the VQGAN that a picture of any folder has."""
        return np.any([records.used_codes() for records in self.parts], axis=0)

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each folder, their weights if there are several, and the rules if any."""
        rules = {"filter of records": describe(self.parts, self.rules)} if self.rules else {}
        if len(self.parts) == 1:
            return {"records": self.first.digest, **rules}
        others = {f"records {i}": part.digest for i, part in enumerate(self.parts[1:], start=2)}
        weights = ":".join(map(str, self.weights))
        return {"records": self.first.digest, **others, "weights of records": weights, **rules}


def parse_records(text: str) -> list[tuple[str, Fraction | None]]:
    """(folder, weight) pairs of "folder" or "[folder:3,folder:1]"; a missing weight is None.

    Raises:
        ValueError: a weight is not positive, or only some folders have one.
    """
    if not (text.startswith("[") and text.endswith("]")):
        return [(text, None)]
    parts = [_parse_one(part.strip(" \"'"), text) for part in text[1:-1].split(",")]
    given = [weight is not None for _, weight in parts]
    if any(given) and not all(given):
        raise ValueError(f"data.records {text}: give all folders a weight, or none")
    return parts


def first_folder(text: str) -> str:
    """The first folder in data.records, as `open_records` finds it."""
    return folders_of(text)[0]


def folders_of(text: str) -> list[str]:
    """The folders in data.records, as `open_records` finds them."""
    return [str(clone.find(folder)) for folder, _ in parse_records(text)]


def _parse_one(part: str, text: str) -> tuple[str, Fraction | None]:
    folder, has_weight, number = part.rpartition(":")
    if not has_weight:
        folder, number = part, ""
    if not folder:
        raise ValueError(f'data.records {text}: write it as "[FOLDER:WEIGHT,FOLDER:WEIGHT]"')
    if not number:
        return folder, None
    try:
        if not _WEIGHT.fullmatch(number):  # 1e999999999 would be computed digit by digit
            raise ValueError
        weight = Fraction(number)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"data.records {text}: {number!r} is not a weight, such as 3 or 0.5"
        ) from None
    if weight <= 0:
        raise ValueError(f"data.records {text}: the weight of {folder} is {number}, not positive")
    return folder, weight


def open_sets(text: str, rules: tuple[str, ...] = ()) -> RecordSets:
    """Open the folders of data.records, with the training examples that meet the rules.

    Raises:
        ValueError: a folder is missing or damaged, has another tokenizer or VQGAN than the first,
            or has no training examples left.
    """
    named = parse_records(text)
    parts = tuple(open_whole(folder) for folder, _ in named)
    for other in parts[1:]:
        check_alike(parts[0], other)
    parts, table = _kept(parts, rules)
    weights = [w or Fraction(len(r.rows(TRAIN))) for (_, w), r in zip(named, parts, strict=True)]
    for records, weight in zip(parts, weights, strict=True):
        if not weight:
            raise ValueError(f"{records.folder} has no training examples")
    scale = lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    if any(weight is not None for _, weight in named):
        whole = [weight // gcd(*whole) for weight in whole]
    if sum(whole) > _MOST_CYCLE:
        raise ValueError(f"data.records {text}: give weights with fewer digits")
    return RecordSets(parts, tuple(whole), rules, table)


def _kept(
    parts: tuple[Records, ...], rules: tuple[str, ...]
) -> tuple[tuple[Records, ...], tuple[str, ...]]:
    """(the folders with the examples that meet the rules, the lines of `RecordSets.table`)."""
    if not rules:
        return parts, ()
    filtered, lines = [], list[str]()
    for part in parts:
        kept, table = keep_for_training(part, rules)
        filtered.append(kept)
        lines += [str(part.folder), *format_table(table, len(kept.rows(TRAIN)))]
    return tuple(filtered), tuple(lines)


def check_alike(ours: Records, other: Records) -> None:
    """Raise ValueError, naming the difference, unless both folders have the same kinds of
    tokens."""
    for name, of in _KINDS.items():
        was, now = of(ours), of(other)
        if was != now:
            raise ValueError(
                f"{other.folder} has {name} {now} and {ours.folder} {was}; encode it with "
                f"--vqgan {ours.vqgan_folder} --tokenizer {ours.tokenizer_folder} "
                f"--text_length {ours.text_length}"
            )


def _words(records: Records) -> str:
    return hash_vocabulary(records.tokenizer_folder)


def _normalizer(records: Records) -> object:
    about_text = records.about.get("text")
    return about_text.get("normalizer", "clean") if isinstance(about_text, dict) else "clean"


_KINDS: dict[str, Callable[[Records], object]] = {
    "grid_size": lambda records: records.grid_size,
    "codebook_size": lambda records: records.codebook_size,
    "the VQGAN": lambda records: records.about.get("vqgan_digest"),
    "text_length": lambda records: records.text_length,
    "a tokenizer with the words": _words,
    "the normaliser": _normalizer,
}


@dataclass(frozen=True)
class Mixture:
    """An endless stream of batches from several folders."""

    parts: tuple[Batches, ...]
    weights: tuple[int, ...]
    examples_at: Callable[[int], int]
    seed: int
    share: Callable[[int], Int64[np.ndarray, " b"]]

    def at(self, step: int) -> TokenBatch[np.ndarray]:
        """This process's rows of the batch of a step."""
        start = self.examples_at(step)
        places = self.share(self.examples_at(step + 1) - start).astype(np.int64)
        numbers, positions = self.find(start + places)
        chosen = [np.flatnonzero(numbers == number) for number in range(len(self.parts))]
        read = [
            part.read(positions[rows]) if len(rows) else None
            for part, rows in zip(self.parts, chosen, strict=True)
        ]
        back = np.argsort(np.concatenate(chosen))
        batches = [batch for batch in read if batch is not None]

        def joined(name: Literal["text_tokens", "text_mask", "image_tokens"]) -> np.ndarray:
            return np.concatenate([batch[name] for batch in batches])[back]

        return {
            "text_tokens": joined("text_tokens"),
            "text_mask": joined("text_mask"),
            "image_tokens": joined("image_tokens"),
            "example_index": places.astype(np.int32),
        }

    def find(
        self, positions: Int64[np.ndarray, " b"]
    ) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """(number of the folder, position in the folder's own stream) at each position."""
        numbers, own_positions = np.full_like(positions, -1), np.zeros_like(positions)
        left = sum(self.weights)
        cycles, places = np.divmod(positions, left)
        # Each folder takes its share of the places that earlier folders left free.
        for number, weight in enumerate(self.weights):
            before = places * weight // left
            taken = (numbers < 0) & ((places + 1) * weight // left > before)
            numbers[taken], own_positions[taken] = number, (cycles * weight + before)[taken]
            places, left = places - before, left - weight  # places among the other folders
        return numbers, own_positions


def open_training(
    sets: RecordSets,
    examples_at: Callable[[int], int],
    seed: int,
    *,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
    window: int = 0,
) -> Batches | Mixture:
    """The training stream of all folders. Raises ValueError if one has no training examples."""

    def open_one(records: Records, key: int) -> Batches:
        return open_batches(records, TRAIN, examples_at, key, share=share, window=window)

    if len(sets.parts) == 1:
        return open_one(sets.first, seed)
    keys: Sequence[int] = [_key(seed, _PART, number) for number in range(len(sets.parts))]
    parts = tuple(open_one(one, own) for one, own in zip(sets.parts, keys, strict=True))
    return Mixture(parts, sets.weights, examples_at, seed, share)


def _key(*parts: int) -> int:
    """A seed for one purpose."""
    return int(hash_of(*parts)[0] >> np.uint64(1))

"""Batches of token records whose order is a pure function of (seed, epoch, step).

Any step costs the same, and nothing is kept between steps. Each epoch is a permutation: a keyed
Feistel network (Luby & Rackoff 1988) over the next power of two, walked until it lands inside
(Black & Rogaway 2002). Hashes are the finaliser of SplitMix64 (Steele et al. 2014).
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from data.records import Records
from filling import filled

Batch = dict[str, np.ndarray]

_ROUNDS = 8
_ORDER, _CAPTION, _SPREAD, _VIEW = 1, 2, 3, 4  # the purpose of a random number, mixed into its key


def _mix(x: UInt64[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(*parts: int | Int64[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    """64 random-looking bits that depend on every part and on their order."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix(state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return state


def order(seed: int, positions: Int64[np.ndarray, " b"], count: int) -> Int64[np.ndarray, " b"]:
    """The index, below `count`, at each position of an endless stream. The stream runs through all
    indices in a new order every epoch (`count` positions)."""
    epochs, places = np.divmod(positions, count)
    keys = _hash(seed, _ORDER, epochs)
    indices = _permute(keys, places.astype(np.uint64), count)
    while (outside := indices >= count).any():
        indices[outside] = _permute(keys[outside], indices[outside], count)
    return indices.astype(np.int64)


def _permute(
    keys: UInt64[np.ndarray, " b"], x: UInt64[np.ndarray, " b"], count: int
) -> UInt64[np.ndarray, " b"]:
    """A permutation of 0 … 2^bits − 1 per key, where 2^bits is the least power of two ≥ count (and
    ≥ 4).

    The halves may differ by a bit and swap their widths; an even number of rounds restores them.
    """
    bits = max(2, (count - 1).bit_length())
    width, other = bits - bits // 2, bits // 2
    high, low = x >> np.uint64(other), x & np.uint64((1 << other) - 1)
    for i in range(_ROUNDS):
        mask = np.uint64((1 << width) - 1)
        high, low = low, high ^ (_mix(keys + _mix(low + np.uint64(i << 40))) & mask)
        width, other = other, width
    return (high << np.uint64(other)) | low


@dataclass(frozen=True)
class Batches:
    """An endless stream of batches of one split."""

    records: Records
    rows: Int64[np.ndarray, " m"]
    examples_at: Callable[[int], int]
    """The number of examples in all batches before a step's. It is exact, and grows by at least 1 a
    step."""
    seed: int
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange
    """The places of a batch of a given size that this process reads."""

    def at(self, step: int) -> Batch:
        """The rows of one step's batch that this process reads: text_tokens, text_mask,
        image_tokens and example_index, the place in the whole batch."""
        start = self.examples_at(step)
        places = self.share(self.examples_at(step + 1) - start).astype(np.int64)
        positions = start + places
        count = len(self.rows)
        examples = self.rows[order(self.seed, positions, count)]
        epochs = positions // count
        batch = _gather(self.records, examples, self._captions(examples, epochs))
        if self.records.view_tokens is not None:
            batch["image_tokens"] = self._views(batch["image_tokens"], examples, epochs)
        return {**batch, "example_index": places.astype(np.int32)}

    def _views(
        self,
        plain: Int32[np.ndarray, "b k"],
        examples: Int64[np.ndarray, " b"],
        epochs: Int64[np.ndarray, " b"],
    ) -> Int32[np.ndarray, "b k"]:
        """The image tokens of one view of each example, all views equally often."""
        more, tokens = self.records.more_views, self.records.view_tokens
        assert tokens is not None
        drawn = (_hash(self.seed, _VIEW, epochs, examples) % np.uint64(more + 1)).astype(np.int64)
        others = np.flatnonzero(drawn)
        rows = examples[others] * more + drawn[others] - 1
        plain[others] = tokens[rows].astype(np.int32)
        return plain

    def _captions(
        self, examples: Int64[np.ndarray, " b"], epochs: Int64[np.ndarray, " b"]
    ) -> Int64[np.ndarray, " b"]:
        """One caption row per example, drawn with the captions' weights."""
        first = self.records.caption_offsets[examples]
        counts = self.records.caption_offsets[examples + 1] - first
        places = np.arange(counts.max())
        captions = first[:, None] + np.minimum(places, counts[:, None] - 1)
        weights = self.records.caption_weights[captions].astype(np.float64)
        below = np.cumsum(np.where(places < counts[:, None], weights, 0.0), axis=1)
        unit = (_hash(self.seed, _CAPTION, epochs, examples) >> np.uint64(11)) * 2.0**-53
        drawn = (below <= (unit * below[:, -1])[:, None]).sum(axis=1)
        return first + np.minimum(drawn, counts - 1)


def open_batches(
    records: Records,
    split: str,
    batch_size: int | Callable[[int], int],
    seed: int,
    *,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
) -> Batches:
    """The training stream of a split. Batches have one size, or `batch_size(n)` is the number of
    examples before batch n.

    Raises:
        ValueError: the split is unknown or empty.
    """
    examples_at = batch_size if callable(batch_size) else partial(operator.mul, batch_size)
    rows = _rows(records, split, examples_at(1))
    return Batches(records, rows, examples_at, seed, share)


def eval_batches(
    records: Records,
    split: str,
    batch_size: int,
    *,
    most: int | None = None,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
) -> Iterator[Batch]:
    """Walk a split, or `most` examples spread over it, once, in order, with first captions. The
    choice is the same in every run. `weight` is 0 for the examples that fill up the last batch, 1
    for the others. `share` gives the places of each batch that are read here, as in `Batches`."""
    rows = _rows(records, split, batch_size)
    if most is not None and most < len(rows):
        rows = rows[_spread(len(rows), most)]
    places = share(batch_size).astype(np.int64)
    return (_eval_batch(records, rows, i, places) for i in range(0, len(rows), batch_size))


def _spread(count: int, most: int) -> Int64[np.ndarray, " m"]:
    """`most` places out of `count`, one by lot from each of as many even stretches. The first
    places may all be of one class, and evenly spaced ones all of one variant."""
    ends = np.arange(most + 1) * count // most
    lots = _hash(_SPREAD, np.arange(most)) % np.diff(ends).astype(np.uint64)
    return ends[:-1] + lots.astype(np.int64)


def _eval_batch(
    records: Records, rows: Int64[np.ndarray, " m"], start: int, places: Int64[np.ndarray, " b"]
) -> Batch:
    positions = start + places
    examples = rows[filled(positions, len(rows))]
    batch = _gather(records, examples, records.caption_offsets[examples])
    return {
        **batch,
        "example_index": places.astype(np.int32),
        "weight": (positions < len(rows)).astype(np.float32),
    }


def _rows(records: Records, split: str, batch_size: int) -> Int64[np.ndarray, " m"]:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is less than 1")
    rows = records.rows(split)
    if not len(rows):
        raise ValueError(
            f"the split {split!r} has no examples; there are: {', '.join(records.split_names)}"
        )
    return rows


def _gather(
    records: Records, examples: Int64[np.ndarray, " b"], captions: Int64[np.ndarray, " b"]
) -> Batch:
    text_tokens: Int32[np.ndarray, "b t"] = records.text_tokens[captions].astype(np.int32)
    lengths = np.asarray(records.text_lengths[captions])
    return {
        "text_tokens": text_tokens,
        "text_mask": np.arange(text_tokens.shape[1]) < lengths[:, None],
        "image_tokens": records.image_tokens[examples].astype(np.int32),
    }

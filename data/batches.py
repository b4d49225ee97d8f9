"""Batches of token records. Each is a pure function of (records, seed, step), so a run can
resume at any step. data/order.py gives the order of the examples.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Bool, Int32, Int64

from common.batch import ChoiceBatch, EvalBatch, TokenBatch, Tokens
from common.filling import filled
from data.order import hash_of, windowed
from data.records import Records

_BLOCK = 8192  # positions whose order is computed and cached together
_CAPTION, _SPREAD, _VIEW = 2, 3, 4  # purposes of random numbers, mixed into their keys


@dataclass(frozen=True)
class Batches:
    """An endless stream of batches of one split."""

    records: Records
    rows: Int64[np.ndarray, " m"]
    examples_at: Callable[[int], int]
    """step → number of examples in all batches before it."""
    seed: int
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange
    """Size of a batch → the places in it that this process reads."""
    window: int = 0
    """Rows per window (see data/order.py); 0 = the order is over all rows."""

    def at(self, step: int) -> TokenBatch[np.ndarray]:
        """This process's rows of the batch of a step."""
        start = self.examples_at(step)
        places = self.share(self.examples_at(step + 1) - start).astype(np.int64)
        return {**self.read(start + places), "example_index": places.astype(np.int32)}

    def read(self, positions: Int64[np.ndarray, " b"]) -> Tokens[np.ndarray]:
        """The examples at these positions of the stream."""
        examples, epochs = self.examples(positions), positions // len(self.rows)
        batch = _gather(self.records, examples, self._one_caption(examples, epochs))
        if self.records.view_tokens is not None:
            batch["image_tokens"] = self._one_view(batch["image_tokens"], examples, epochs)
        return batch

    def examples(self, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """The rows of the records at these positions of the stream."""
        return self.rows[_order(self.seed, positions, len(self.rows), self.window)]

    def _one_view(
        self,
        plain: Int32[np.ndarray, "b k"],
        examples: Int64[np.ndarray, " b"],
        epochs: Int64[np.ndarray, " b"],
    ) -> Int32[np.ndarray, "b k"]:
        """The image tokens of one view of each example. All views are drawn equally often."""
        further, tokens = self.records.more_views, self.records.view_tokens
        assert tokens is not None
        random = hash_of(self.seed, _VIEW, epochs, examples) % np.uint64(further + 1)
        view = random.astype(np.int64)  # 0 = the plain one
        others = np.flatnonzero(view)
        rows = examples[others] * further + view[others] - 1
        plain[others] = tokens[rows].astype(np.int32)
        return plain

    def _one_caption(
        self, examples: Int64[np.ndarray, " b"], epochs: Int64[np.ndarray, " b"]
    ) -> Int64[np.ndarray, " b"]:
        """The row of one caption of each example, drawn by the captions' weights."""
        first = self.records.caption_offsets[examples]
        counts = self.records.caption_offsets[examples + 1] - first
        if counts.max() == 1:
            return first
        places = np.arange(counts.max())
        captions = first[:, None] + np.minimum(places, counts[:, None] - 1)
        weights = self.records.caption_weights[captions].astype(np.float64)
        below = np.cumsum(np.where(places < counts[:, None], weights, 0.0), axis=1)
        unit = (hash_of(self.seed, _CAPTION, epochs, examples) >> np.uint64(11)) * 2.0**-53
        drawn = (below <= (unit * below[:, -1])[:, None]).sum(axis=1)
        return first + np.minimum(drawn, counts - 1)


def open_batches(
    records: Records,
    split: str,
    batch_size: int | Callable[[int], int],
    seed: int,
    *,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
    window: int = 0,
) -> Batches:
    """The training stream of a split. `batch_size` is a number, or a function n → the number of
    examples in all batches before batch n.

    Raises:
        ValueError: the split is unknown or empty.
    """
    examples_at = batch_size if callable(batch_size) else partial(operator.mul, batch_size)
    records = records.in_order() if window else records
    rows = _rows(records, split, examples_at(1))
    return Batches(records, rows, examples_at, seed, share, window)


def eval_batches(
    records: Records,
    split: str | None,
    batch_size: int,
    *,
    most: int | None = None,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
) -> Iterator[EvalBatch[np.ndarray]]:
    """Batches of a split (None = of all examples), once, in order, each example with its first
    caption. With `most`, that many examples spread over the split, the same in every run.

    `weight` is 0 for examples that only fill up the last batch, and 1 for the others. `share`: see
    `Batches`.
    """
    rows = _evaluated_rows(records, split, batch_size, most)
    places = share(batch_size).astype(np.int64)
    return (_eval_batch(records, rows, i, places) for i in range(0, len(rows), batch_size))


def choice_batches(
    records: Records,
    split: str | None,
    batch_size: int,
    others: int,
    *,
    most: int | None = None,
    share: Callable[[int], Int64[np.ndarray, " b"]] = np.arange,
) -> Iterator[ChoiceBatch[np.ndarray]]:
    """The batches of `eval_batches`, and for each picture the first captions of `others` other
    examples, evenly spread over the evaluated ones. They do not depend on the batch size."""
    rows = _evaluated_rows(records, split, batch_size, most)
    places = share(batch_size).astype(np.int64)
    steps = np.arange(1, others + 1) * len(rows) // (others + 1)
    for start in range(0, len(rows), batch_size):
        positions = filled(start + places, len(rows))
        examples = rows[(positions[:, None] + steps) % len(rows)]
        tokens, mask = _captions(records, records.caption_offsets[examples])
        batch = _eval_batch(records, rows, start, places)
        yield {**batch, "other_tokens": tokens, "other_mask": mask}


def _evaluated_rows(
    records: Records, split: str | None, batch_size: int, most: int | None
) -> Int64[np.ndarray, " m"]:
    """The rows of a split, or `most` of them."""
    rows = _rows(records, split, batch_size)
    return rows if most is None or most >= len(rows) else rows[_random_places(len(rows), most)]


def _random_places(count: int, most: int) -> Int64[np.ndarray, " m"]:
    """`most` places out of `count`: one random place from each of `most` equal intervals. The first
    places could all show one class, and evenly spaced ones one variant."""
    ends = np.arange(most + 1) * count // most
    lots = hash_of(_SPREAD, np.arange(most)) % np.diff(ends).astype(np.uint64)
    return ends[:-1] + lots.astype(np.int64)


def _eval_batch(
    records: Records, rows: Int64[np.ndarray, " m"], start: int, places: Int64[np.ndarray, " b"]
) -> EvalBatch[np.ndarray]:
    positions = start + places
    examples = rows[filled(positions, len(rows))]
    batch = _gather(records, examples, records.caption_offsets[examples])
    return {
        **batch,
        "example_index": places.astype(np.int32),
        "weight": (positions < len(rows)).astype(np.float32),
    }


def _order(
    seed: int, positions: Int64[np.ndarray, " b"], count: int, window: int
) -> Int64[np.ndarray, " b"]:
    """`order.windowed` at these positions, from cached blocks."""
    numbers, places = np.divmod(positions, _BLOCK)
    order = np.empty_like(positions)
    for number in np.unique(numbers):
        chosen = numbers == number
        order[chosen] = _block(seed, int(number), count, window)[places[chosen]]
    return order


@lru_cache(maxsize=16)
def _block(seed: int, number: int, count: int, window: int) -> Int64[np.ndarray, " n"]:
    """The order at the `_BLOCK` positions of one block, which costs little more than one batch."""
    positions = np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.int64)
    return windowed(seed, positions, count, window)


def _rows(records: Records, split: str | None, batch_size: int) -> Int64[np.ndarray, " m"]:
    """The rows of a split. Raises ValueError if it is empty."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is less than 1")
    rows = np.arange(len(records)) if split is None else records.rows(split)
    if not len(rows):
        raise ValueError(
            f"the split {split!r} has no examples; there are: {', '.join(records.split_names)}"
        )
    return rows


def _gather(
    records: Records, examples: Int64[np.ndarray, " b"], captions: Int64[np.ndarray, " b"]
) -> Tokens[np.ndarray]:
    tokens, mask = _captions(records, captions)
    image_tokens = records.image_tokens[examples].astype(np.int32)
    return {"text_tokens": tokens, "text_mask": mask, "image_tokens": image_tokens}


def _captions(
    records: Records, captions: Int64[np.ndarray, "*b"]
) -> tuple[Int32[np.ndarray, "*b t"], Bool[np.ndarray, "*b t"]]:
    """(tokens, mask) of captions; the mask is False for padding."""
    tokens: Int32[np.ndarray, "*b t"] = records.text_tokens[captions].astype(np.int32)
    lengths = np.asarray(records.text_lengths[captions])
    return tokens, np.arange(tokens.shape[-1]) < lengths[..., None]

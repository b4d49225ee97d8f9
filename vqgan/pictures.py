"""Batches of training pictures, as pure functions of the update."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Int, UInt8

from common.batch import PictureBatch
from common.filling import batches_of

Pictures = UInt8[np.ndarray, "_ y x 3"]
Order = Callable[[int, np.ndarray, int], np.ndarray]


class PictureStream:
    """An endless stream of training pictures. `order(seed, positions, count)` returns the index of
    the picture at each position."""

    def __init__(self, pictures: Pictures, order: Order, seed: int) -> None:
        self.pictures, self.seed = pictures, seed
        self._order = order

    def next_indices(self, position: int, count: int) -> Int[np.ndarray, " count"]:
        """The indices of `count` pictures of the stream, from `position` on."""
        positions = position + np.arange(count, dtype=np.int64)
        return self._order(self.seed, positions, len(self.pictures))

    def next_pictures(self, position: int, count: int) -> Pictures:
        """`count` pictures of the stream, from `position` on."""
        return self.pictures[self.next_indices(position, count)]

    def batch(
        self, n: int, indices: Int[np.ndarray, " count"], shift: int
    ) -> PictureBatch[np.ndarray]:
        """The batch of update n + 1: the pictures with these indices, each shifted at random by up
        to `shift` pixels."""
        random, count = np.random.default_rng((self.seed, n)), len(indices)
        offsets = random.integers(0, 2 * shift + 1, (count, 2))
        return {
            "pixels": shift_pictures(self.pictures[indices], offsets, shift),
            "example_index": np.arange(count, dtype=np.int32),
        }


class FoundTokens:
    """The image tokens of pictures, each found when it is first asked for.

    `find(pictures)` returns the tokens of `per_call` pictures.
    """

    def __init__(
        self,
        pictures: Pictures,
        length: int,
        find: Callable[[Pictures], Array | np.ndarray],
        per_call: int,
    ) -> None:
        self._pictures, self._find, self._per_call = pictures, find, per_call
        self._tokens = np.full((len(pictures), length), -1, np.int32)

    def of(self, indices: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b n"]:
        """The tokens of the pictures with these indices."""
        missing = np.unique(indices[self._tokens[indices, 0] < 0])
        for rows, count in batches_of(self._per_call, len(missing)):
            tokens = np.asarray(self._find(self._pictures[missing[rows]]))
            self._tokens[missing[rows][:count]] = tokens[:count]
        return self._tokens[indices]


def shift_pictures(pictures: Pictures, offsets: Int[np.ndarray, "_ 2"], shift: int) -> Pictures:
    """The pictures, each shifted by shift − offset pixels along y and x, its border repeated."""
    height, width = pictures.shape[1:3]
    padded = np.pad(pictures, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    rows = offsets[:, :1] + np.arange(height)[None]
    columns = offsets[:, 1:] + np.arange(width)[None]
    return padded[np.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None, :]]


def evenly_spaced(pictures: Sequence[Pictures], count: int) -> Pictures:
    """At most `count` pictures, evenly spaced over the given sets."""
    together = np.concatenate(pictures)
    chosen = np.linspace(0, len(together) - 1, min(count, len(together))).round().astype(int)
    return together[np.unique(chosen)]

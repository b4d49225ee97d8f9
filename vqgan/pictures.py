"""Batches of pictures as pure functions of the update; evaluation and grids of reconstructions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from common.files import new_file
from common.filling import batches_of
from common.pixels import to_bytes
from common.split_names import TRAIN
from vqgan import quantizer
from vqgan.layers import Params

Pictures = UInt8[np.ndarray, "_ y x 3"]
Order = Callable[[int, np.ndarray, int], np.ndarray]
Reconstruct = Callable[[Params, Pictures], Mapping[str, Any]]
_EVAL_BATCH = 64


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
    ) -> dict[str, np.ndarray]:
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
        self, pictures: Pictures, length: int, find: Callable[[Pictures], Any], per_call: int
    ) -> None:
        self._pictures, self._find, self._per_call = pictures, find, per_call
        self._tokens = np.full((len(pictures), length), -1, np.int32)

    def of(self, indices: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b n"]:
        """The tokens of the pictures with these indices."""
        missing = np.unique(indices[self._tokens[indices, 0] < 0])
        for rows, count in batches_of(self._per_call, len(missing)):
            found = np.asarray(self._find(self._pictures[missing[rows]]))
            self._tokens[missing[rows][:count]] = found[:count]
        return self._tokens[indices]


def shift_pictures(pictures: Pictures, offsets: Int[np.ndarray, "_ 2"], shift: int) -> Pictures:
    """The pictures, each shifted by shift − offset pixels along y and x, its border repeated."""
    height, width = pictures.shape[1:3]
    padded = np.pad(pictures, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    rows = offsets[:, :1] + np.arange(height)[None]
    columns = offsets[:, 1:] + np.arange(width)[None]
    return padded[np.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None, :]]


def reconstruct_all(
    reconstruct: Reconstruct, params: Params, pictures: Pictures
) -> dict[str, np.ndarray]:
    """The results of `reconstruct` for all pictures, in batches of one size."""
    found: list[Mapping[str, np.ndarray]] = []
    for rows, count in batches_of(_EVAL_BATCH, len(pictures)):
        result = reconstruct(params, pictures[rows])
        found.append({name: np.asarray(value)[:count] for name, value in result.items()})
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def make_figures(
    reconstruct: Reconstruct, sets: Mapping[str, Pictures], codebook_size: int
) -> Callable[[Params], dict[str, float]]:
    """A function params → metrics: the mean PSNR and SSIM of each set and of all held-out pictures
    together, and the share of codes in use. The set `train` is not held out."""

    def figures(params: Params) -> dict[str, float]:
        results = {name: reconstruct_all(reconstruct, params, p) for name, p in sets.items()}
        held_out = [r for name, r in results.items() if name != TRAIN] or [*results.values()]
        results["all"] = {k: np.concatenate([r[k] for r in held_out]) for k in held_out[0]}
        values = {
            f"eval/{name}/{figure}": float(result[figure].mean())
            for name, result in results.items()
            for figure in ("psnr", "ssim")
        }
        counts = quantizer.count(jnp.asarray(results["all"]["tokens"]), codebook_size)
        values["eval/all/usage"] = float(quantizer.usage(counts))
        values["eval/all/perplexity"] = float(quantizer.perplexity(counts))
        return values

    return figures


def spread(pictures: Sequence[Pictures], count: int) -> Pictures:
    """At most `count` pictures, evenly spaced over the given sets."""
    together = np.concatenate(pictures)
    chosen = np.linspace(0, len(together) - 1, min(count, len(together))).round().astype(int)
    return together[np.unique(chosen)]


def write_grid(
    path: Path, reconstruct: Reconstruct, params: Params, pictures: Pictures, columns: int = 16
) -> None:
    """Write a PNG with rows of pictures, each followed by the row of their reconstructions."""
    painted = to_bytes(reconstruct_all(reconstruct, params, pictures)["reconstruction"])
    rows = []
    for start in range(0, len(pictures), columns):
        for kind in (pictures, painted):
            some = kind[start : start + columns]
            missing = columns - len(some)
            rows.append(np.pad(some, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255))
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    with new_file(path) as beside:
        Image.fromarray(page).save(beside, "PNG")

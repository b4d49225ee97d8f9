"""Duplicate pictures: exact ones by a hash of the pixels, near ones by a perceptual hash (pHash:
Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions)."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, UInt8, UInt64
from PIL import Image

_SIDE, _KEPT = 32, 8
MOST_BITS = 16
"""Most bits in which the hashes of near duplicates may differ."""


def perceptual_hash(pixels: UInt8[np.ndarray, "y x 3"]) -> int:
    """A 64-bit hash that copies of another size, format or brightness nearly share: True for each
    of the lowest frequencies of the brightness that is above their median."""
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    frequencies = (_COSINES @ np.asarray(grey, np.float64) @ _COSINES.T)[:_KEPT, :_KEPT].ravel()
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies[1:])).tobytes(), "big")


def _cosines() -> np.ndarray:
    k, x = np.arange(_SIDE)[:, None], np.arange(_SIDE)
    return np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE))


_COSINES = _cosines()


def repeated(hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True for each hash that occurred before."""
    _, first = np.unique(hashes, return_index=True)
    is_repeated = np.ones(len(hashes), bool)
    is_repeated[first] = False
    return is_repeated


def near(hashes: Iterable[int], bits: int) -> Iterator[tuple[int, int]]:
    """Yield (index, index of the original) of each hash that differs in at most `bits` bits from an
    earlier original. A near duplicate never becomes an original, so a chain of small differences
    does not become one group.

    Two hashes that differ in `bits` bits agree in one of `bits` + 1 groups of bits; these groups
    are the index.
    """
    edges = np.linspace(0, 64, bits + 2).astype(int).tolist()
    stretches = [(a, (1 << (b - a)) - 1) for a, b in pairwise(edges)]
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, code in enumerate(hashes):
        keys = [(i, code >> shift & mask) for i, (shift, mask) in enumerate(stretches)]
        candidates = (item for key in keys for item in seen.get(key, ()))
        original = next((p for p, other in candidates if (code ^ other).bit_count() <= bits), None)
        if original is None:
            for key in keys:
                seen.setdefault(key, []).append((place, code))
        else:
            yield place, original

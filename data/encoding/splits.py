"""The choice of held-out pictures by a perceptual hash, so that copies are in the same split.

A copy may have another size, file format or name. The hash is computed from eight low frequencies
of the brightness, symmetric from left to right, each rounded to a grid. Of 2,000 pictures 0.2 % had
another hash at twice the size, 0.7 % as JPEG of quality 92, and 2 % as lossy WebP.
"""

import zlib

import numpy as np
from jaxtyping import Float, UInt8

from common.split_names import HELD_OUT, TRAIN
from data.exams.gallery import pool

RULE = "look 1"
"""The name of this rule, which records store. Another rule holds out other pictures."""

_SIDE = 8  # mean brightness of a grid with this many cells per side
_DOWN, _RIGHT = (0, 1, 2, 3, 4, 0, 1, 2), (0, 0, 0, 0, 0, 2, 2, 2)  # even: mirrored copies agree
_NUMBERS = 5  # mixed out of the eight frequencies
_CELL, _PHASE = 48.0, 0.875  # in grey levels times 8; wider cells hold copies better, but fewer


def split_of(pixels: UInt8[np.ndarray, "y x 3"], held_out: float) -> str:
    """The split of a picture, where about `held_out` of all pictures are held out. Copies of
    another size or format, with light compression, or mirrored nearly always get the same split."""
    cell = np.floor(_numbers(pixels) / _CELL + _PHASE).astype("<i4")
    return HELD_OUT if zlib.crc32(cell.tobytes()) < held_out * 2**32 else TRAIN


def _numbers(pixels: UInt8[np.ndarray, "y x 3"]) -> Float[np.ndarray, " n"]:
    grey = pool(pixels[None].astype(np.float32), _SIDE)[0].mean(axis=-1, dtype=np.float64)
    frequencies = (_COSINES @ grey @ _COSINES.T)[_DOWN, _RIGHT]
    return _MIX @ frequencies


def _cosines(side: int) -> Float[np.ndarray, "k x"]:
    """The orthonormal discrete cosine transform."""
    k, x = np.arange(side)[:, None], np.arange(side)
    scale = np.sqrt(np.minimum(k + 1, 2) / side)
    return scale * np.cos(np.pi * k * (2 * x + 1) / (2 * side))


_PAIR = np.array([[1.0, 1.0], [1.0, -1.0]])
_COSINES = _cosines(_SIDE)
_MIX = (np.kron(np.kron(_PAIR, _PAIR), _PAIR) / np.sqrt(8.0))[:_NUMBERS]

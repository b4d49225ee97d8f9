"""Batches of one size, whose last is filled up; any package may import this file.

A program is compiled for one size, so fewer rows would be another program.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64


def batches_of(size: int, total: int) -> Iterator[tuple[Int64[np.ndarray, " size"], int]]:
    """`size` places at a time out of `total`, and how many of them count: the last batch is filled
    up with the last place."""
    for start in range(0, total, size):
        yield filled(np.arange(start, start + size), total), min(size, total - start)


def filled(places: Int64[np.ndarray, " b"], total: int) -> Int64[np.ndarray, " b"]:
    """The places, with the last of `total` in place of later ones."""
    return np.minimum(places, total - 1)

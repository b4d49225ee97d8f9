"""Batches of one size, the last one filled up; any package may import this file.

A program is compiled for one size; fewer rows would need another program.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64


def batches_of(size: int, total: int) -> Iterator[tuple[Int64[np.ndarray, " size"], int]]:
    """Yield (`size` indices below `total`, how many of them count) for each batch. The last batch
    is filled up with the last index."""
    for start in range(0, total, size):
        yield filled(np.arange(start, start + size), total), min(size, total - start)


def filled(places: Int64[np.ndarray, " b"], total: int) -> Int64[np.ndarray, " b"]:
    """The indices, where those beyond `total` − 1 are replaced by it."""
    return np.minimum(places, total - 1)

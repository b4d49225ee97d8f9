"""Pictures as bytes and as numbers in −1..1, in numpy and in jax; any package may import this file.

All models read and paint numbers. Bytes are used at the edges: files, records, drawn pictures.
"""

from typing import Any

import numpy as np


def to_floats(pixels: Any) -> Any:
    """Bytes → float32 in −1..1, of the same shape and library."""
    return pixels.astype(np.float32) / 127.5 - 1


def to_bytes(pixels: Any) -> Any:
    """Numbers → the nearest bytes, of the same shape and library; below −1 is 0, above 1 is 255."""
    return ((pixels.clip(-1.0, 1.0) + 1) * 127.5).round().astype(np.uint8)

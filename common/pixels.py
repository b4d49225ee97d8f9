"""Pixels as bytes, as floats in −1..1, and as PNG; any package may import this file.

All models use floats. Bytes are used in files, records and drawn pictures.
"""

import io
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jax import Array

A = TypeVar("A", np.ndarray, "Array")


def to_floats(pixels: A) -> A:
    """The bytes as float32 in −1..1, as a numpy or jax array like the argument."""
    return pixels.astype(np.float32) / 127.5 - 1


def to_bytes(pixels: A) -> A:
    """The floats as the nearest bytes, as a numpy or jax array like the argument; values outside
    −1..1 are clipped."""
    return ((pixels.clip(-1.0, 1.0) + 1) * 127.5).round().astype(np.uint8)


def as_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

"""Further views of a picture (augmentation): random crops, mirrored on request.

The picture is decoded a quarter larger than needed. A random square of it, at least as large as
needed, is scaled down, so that no view has invented borders.
"""

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.sources import Example, ReadingConfig

_LARGER = 5, 4
_ROOM = 1 << 16  # steps in which places and sizes are drawn


_SIDE = re.compile(
    r"\b(left|right(?!\s+angle)|links|rechts|gauche|droite|izquierda|derecha)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Views:
    """The number of views of each picture, the plain one included."""

    count: int = 1
    flips: bool = False
    """True if half of the further views are mirrored, except of pictures whose captions name a
    side."""


NO_VIEWS = Views()


def names_side(example: Example) -> bool:
    """True if a caption says left or right, which is wrong of the mirrored picture."""
    return any(_SIDE.search(text) for text, _ in example.captions)


def views_of(example: Example, views: Views) -> Views:
    """The views to make of this picture: the given ones, but none is mirrored if a caption names a
    side."""
    return replace(views, flips=False) if views.flips and names_side(example) else views


def make_views(
    example: Example, pixels: UInt8[np.ndarray, "y x 3"], config: ReadingConfig, views: Views
) -> list[UInt8[np.ndarray, "y x 3"]]:
    """The further views of a picture. Their positions depend on `pixels`, the plain view."""
    if views.count == 1:
        return []
    size = len(pixels)
    large = Image.fromarray(example.picture(-(-size * _LARGER[0] // _LARGER[1]), config))
    return [_view(large, size, _draws(pixels, number), views) for number in range(1, views.count)]


def _draws(pixels: UInt8[np.ndarray, "y x 3"], number: int) -> tuple[int, ...]:
    """Four pseudo-random numbers below _ROOM."""
    hashed = hashlib.blake2b(pixels.tobytes(), digest_size=8, salt=b"view %d" % number)
    return tuple(int(x) for x in np.frombuffer(hashed.digest(), "<u2"))


def _view(
    large: Image.Image, size: int, draws: tuple[int, ...], views: Views
) -> UInt8[np.ndarray, "y x 3"]:
    side = size + draws[0] * (large.width - size + 1) // _ROOM
    left, top = (draw * (large.width - side + 1) // _ROOM for draw in draws[1:3])
    view = large.crop((left, top, left + side, top + side))
    if side > size:
        view = view.resize((size, size), Image.Resampling.LANCZOS)
    if views.flips and draws[3] % 2:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def hash_pixels(pixels: UInt8[np.ndarray, "y x 3"]) -> int:
    """A 64-bit hash of a picture."""
    digest = hashlib.blake2b(f"{pixels.shape}".encode() + pixels.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

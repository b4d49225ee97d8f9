"""A picture of any shape → a square."""

from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

Fit = Literal["auto", "crop", "pad", "stretch"]
_SAME = 12
"""Two colours are the same if no channel differs by more: JPEG noise stays below."""
_PLAIN = 0.6
"""Share of the outermost pixels that have one colour, from which on it is a backdrop. Things whose
paws touch the edge are above; few photographs are, and those have a plain backdrop, too."""


def to_square(picture: Image.Image, size: int, fit: Fit, background: str) -> Image.Image:
    """The picture in RGB, `size` pixels wide and high.

    `crop` keeps the middle, `pad` adds bars in the colour `background`, `stretch` changes the
    aspect ratio. `auto` adds bars in the colour of the picture's backdrop; without one it crops.
    """
    if fit == "stretch":
        return picture.resize((size, size), Image.Resampling.LANCZOS)
    bars: tuple[int, ...] | None = None
    if fit == "pad":
        bars = ImageColor.getrgb(background)[:3]
    if fit == "auto" and picture.width != picture.height:
        bars = backdrop(picture)
    if bars is None:
        return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return ImageOps.pad(picture, (size, size), Image.Resampling.LANCZOS, color=bars)


def backdrop(picture: Image.Image) -> tuple[int, ...] | None:
    """The colour that most of the outermost pixels of an RGB picture have; None if they have many
    colours."""
    pixels = np.asarray(picture)
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    border = np.concatenate(edges).astype(int)
    colours, counts = np.unique(border, axis=0, return_counts=True)
    commonest = colours[counts.argmax()]
    same = (abs(border - commonest) <= _SAME).all(1)
    return tuple(map(int, commonest)) if same.mean() >= _PLAIN else None

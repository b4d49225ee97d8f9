"""Completion of a picture (--complete): some of its image tokens are kept, the others are drawn."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from data.pictures.decoding import read_picture
from drawing.drawer import Drawer

LIGHT = 128
"""Brightness, in 0…255, from which a pixel of a mask is redrawn."""


def read_given_tokens(
    drawer: Drawer, complete: str | None, rows: int, mask: str | None
) -> Int[np.ndarray, " k"] | None:
    """The given image tokens of the picture file `complete`, for `Drawer.draw_tokens`: its first
    `rows` rows (0 = the upper half), or with a mask all tokens, −1 where it is redrawn. None
    without a picture.

    Raises:
        ValueError: a file is not a picture, or nothing would be kept or drawn.
    """
    if complete is None:
        return None
    picture = _read(complete, "--complete", drawer.image_size)
    if mask is None:
        return drawer.first_tokens(picture, rows or drawer.model.grid_size // 2)
    redrawn = read_mask(mask, drawer.model.grid_size, drawer.image_size)
    return drawer.kept_tokens(picture, redrawn.reshape(-1))


def read_mask(mask: str, grid_size: int, image_size: int) -> Bool[np.ndarray, "y x"]:
    """True for each image token that is redrawn: at least half of it is light in the mask's file,
    or inside of a rectangle such as "0.25,0.5,0.75,1" (left, top, right, bottom, as shares of the
    picture)."""
    inside = _rectangle(mask, image_size)
    light = (_read(mask, "--mask", image_size) >= LIGHT).all(-1) if inside is None else inside
    width = image_size // grid_size
    covered = light.reshape(grid_size, width, grid_size, width).mean(axis=(1, 3))
    if not (covered >= 0.5).any():
        raise ValueError(
            f"--mask {mask} covers none of the {grid_size} × {grid_size} image tokens by half: "
            f"nothing would be drawn; it must be light where the picture is redrawn"
        )
    return covered >= 0.5


def _rectangle(mask: str, side: int) -> Bool[np.ndarray, "y x"] | None:
    try:
        left, top, right, bottom = (float(number) for number in mask.split(","))
    except ValueError:
        return None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"--mask {mask} must be LEFT,TOP,RIGHT,BOTTOM in shares of the picture, 0 to 1"
        )
    middles = (np.arange(side) + 0.5) / side
    inside_x, inside_y = (
        (low <= middles) & (middles < high) for low, high in ((left, right), (top, bottom))
    )
    return inside_y[:, None] & inside_x


def _read(path: str, flag: str, side: int) -> np.ndarray:
    try:
        return read_picture(Path(path).read_bytes(), side)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{flag} {path}: {reason}") from None

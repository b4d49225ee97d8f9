"""Completion of a picture (--complete): some of its image tokens are kept, the others are drawn."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

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
    picture, columns = _read(complete, "--complete", drawer.image_size), drawer.model.grid_size
    if mask is not None:
        return _kept_tokens(
            drawer, picture, read_mask(mask, columns, drawer.image_size).reshape(-1)
        )
    rows = rows or columns // 2
    if not 0 < rows <= columns:
        raise ValueError(f"a picture has {columns} rows of image tokens; {rows} is not in 1…")
    kept = rows * columns
    return _kept_tokens(drawer, picture, np.arange(columns**2) >= kept)[:kept]


def _kept_tokens(
    drawer: Drawer, picture: UInt8[np.ndarray, "y x 3"], redrawn: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The image tokens of a picture; −1 where `redrawn` is True. Raises ValueError if the model has
    fewer codes than the VQGAN."""
    tokens = np.asarray(drawer.tokenise(picture[None]))[0].astype(np.int32)
    tokens = np.where(redrawn, np.int32(-1), tokens)
    if tokens.max() >= drawer.num_codes:
        raise ValueError(
            f"the picture holds code {tokens.max()} of the VQGAN, the model knows "
            f"{drawer.num_codes} codes; use the VQGAN that it was trained with"
        )
    return tokens


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

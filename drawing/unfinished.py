"""Unfinished pictures: what a picture looks like while it is drawn, row by row."""

import numpy as np
from jaxtyping import Int, UInt8

from drawing.drawer import Drawer

UNDRAWN = 200
"""Grey value of a picture's part that is not drawn yet."""


def unfinished(
    drawer: Drawer, image_tokens: Int[np.ndarray, "b n"], rows: int
) -> UInt8[np.ndarray, "b y x 3"]:
    """The pictures after `rows` rows of their image tokens; grey where nothing is drawn."""
    decoded = drawer.decode_batch(_repeated(drawer, image_tokens, rows))
    return np.stack([_greyed(drawer, picture, rows) for picture in decoded])


def stages(drawer: Drawer, image_tokens: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "s y x 3"]:
    """One picture after each row of its image tokens; grey where nothing is drawn."""
    rows = range(1, drawer.model.grid_size + 1)
    begun = np.stack([_repeated(drawer, image_tokens[None], count)[0] for count in rows])
    decoded = zip(drawer.decode_tokens(begun), rows, strict=True)
    return np.stack([_greyed(drawer, picture, count) for picture, count in decoded])


def _repeated(
    drawer: Drawer, image_tokens: Int[np.ndarray, "b n"], rows: int
) -> Int[np.ndarray, "b n"]:
    """The tokens with the last drawn row repeated below it, so that its edge has no seam."""
    size = drawer.model.grid_size
    last = np.minimum(np.arange(size), rows - 1)
    return image_tokens.reshape(-1, size, size)[:, last].reshape(image_tokens.shape)


def _greyed(
    drawer: Drawer, picture: UInt8[np.ndarray, "y x 3"], rows: int
) -> UInt8[np.ndarray, "y x 3"]:
    height = rows * drawer.image_size // drawer.model.grid_size
    return np.concatenate([picture[:height], np.full_like(picture[height:], UNDRAWN)])

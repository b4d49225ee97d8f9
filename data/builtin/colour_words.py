"""Named colours: finds the colour of a drawing, and paints the drawing in another one.

Lightness, chroma and hue are those of OKLab (Ottosson 2020,
https://bottosson.github.io/posts/oklab), in which equal steps look equal.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Colour(NamedTuple):
    """A colour as people name it."""

    lightness: float
    """0..1."""
    chroma: float
    hue: float
    """Degrees."""


COLOURS = {
    "red": Colour(0.58, 0.22, 27),
    "orange": Colour(0.74, 0.18, 58),
    "yellow": Colour(0.88, 0.18, 98),
    "green": Colour(0.66, 0.19, 143),
    "blue": Colour(0.58, 0.18, 255),
    "purple": Colour(0.53, 0.20, 305),
    "pink": Colour(0.76, 0.16, 355),
    "brown": Colour(0.47, 0.09, 55),
    "black": Colour(0.25, 0.00, 0),
    "grey": Colour(0.66, 0.00, 0),
}
"""Colours in which a drawing can be painted. White would vanish on the white background."""
WHITE_NAME = "white"
WHITE = Colour(0.97, 0.0, 0)
CLEAR = 0.5
"""Share of a drawing that its colour must have."""
NEAR = 40.0  # degrees of hue that count as one colour
FADE = 20.0  # and those over which its neighbours follow it
LEAST_CHROMA = 0.05
DARKEST = 0.25  # lightness of black lines, which stay black
SPREAD = 0.8  # share of the light and shade that is kept

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

RGB = Float[np.ndarray, "*b 3"]
"""sRGB in 0..1."""
LCH = Float[np.ndarray, "*b 3"]
"""Lightness, chroma, hue in degrees."""


def to_lch(rgb: RGB) -> LCH:
    """sRGB as lightness, chroma and hue."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    light, a, b = np.moveaxis(lab, -1, 0)
    return np.stack([light, np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360], -1)


def to_rgb(lch: LCH) -> RGB:
    """Lightness, chroma and hue as sRGB; what a screen cannot show is clipped."""
    linear = ((_as_lab(lch) @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_LMS).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def name_of(rgb: Float[np.ndarray, "y x 3"], alpha: Float[np.ndarray, "y x"]) -> str | None:
    """The name of the colour that most of a drawing has, black outlines apart; None if none has
    half of it."""
    opaque = alpha > CLEAR
    names = _nearest(to_lch(rgb[opaque]))
    shares = {name: float((names == name).mean()) for name in set(names.tolist())}
    if shares.get("black", 0) < CLEAR:
        shares.pop("black", None)
    best = max(shares, key=shares.__getitem__, default=None)
    return None if best is None or shares[best] < CLEAR * sum(shares.values()) else best


def _nearest(lch: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """The name of each pixel's colour."""
    named = {**COLOURS, WHITE_NAME: WHITE}
    return np.array(list(named))[
        np.square(_as_lab(lch)[:, None] - _as_lab(np.array(list(named.values())))).sum(-1).argmin(1)
    ]


def _as_lab(lch: LCH) -> Float[np.ndarray, "*b 3"]:
    light, chroma, hue = np.moveaxis(lch, -1, 0)
    turn = np.radians(hue)
    return np.stack([light, chroma * np.cos(turn), chroma * np.sin(turn)], -1)


@dataclass(frozen=True)
class Repainter:
    """A drawing whose main colour can be turned into others: the hue that half of it has, or grey
    and white. Its light and shade are kept, and black lines stay black."""

    rgb: Float[np.ndarray, "y x 3"]
    alpha: Float[np.ndarray, "y x"]

    def paint(self, name: str) -> Float[np.ndarray, "y x 3"] | None:
        """The drawing in a named colour; None if half of it would not be that colour."""
        lch, follows = self._lch, self._follows
        main = (self.alpha > CLEAR) & (follows == 1)
        if not main.any() or main.sum() < CLEAR * (self.alpha > CLEAR).sum():
            return None
        new = COLOURS[name]
        light, chroma = np.median(lch[main][:, :2], axis=0)
        is_pale = chroma < LEAST_CHROMA
        painted = np.stack(
            [
                (new.lightness + SPREAD * (lch[..., 0] - light)).clip(0.05, 0.98),
                np.full_like(follows, new.chroma) if is_pale else lch[..., 1] * new.chroma / chroma,
                np.full_like(follows, new.hue),
            ],
            -1,
        )
        mixed = self.rgb + follows[..., None] * (to_rgb(painted) - self.rgb)
        return mixed if name_of(mixed, self.alpha) == name else None

    @cached_property
    def _lch(self) -> Float[np.ndarray, "y x 3"]:
        return to_lch(self.rgb)

    @cached_property
    def _follows(self) -> Float[np.ndarray, "y x"]:
        """The weight of the main colour in each pixel, 0..1."""
        light, chroma, hue = np.moveaxis(self._lch, -1, 0)
        opaque = self.alpha > CLEAR
        coloured = opaque & (chroma > LEAST_CHROMA)
        if coloured.sum() < CLEAR * opaque.sum():
            grey = 1 - (chroma - LEAST_CHROMA) / LEAST_CHROMA
            return grey.clip(0, 1) * ((light - DARKEST) / DARKEST).clip(0, 1)
        candidates = np.arange(0, 360, 10)
        near = _from_hue(hue[coloured], candidates[:, None]) < NEAR
        main = candidates[(near * chroma[coloured]).sum(1).argmax()]
        distance = _from_hue(hue, float(main))
        return (1 - (distance - NEAR) / FADE).clip(0, 1) * (chroma / LEAST_CHROMA).clip(0, 1)


def _from_hue(hue: np.ndarray, other: np.ndarray | float) -> np.ndarray:
    """Degrees between hues, 0..180."""
    return np.abs((hue - other + 180) % 360 - 180)

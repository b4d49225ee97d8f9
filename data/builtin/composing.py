"""Composes pictures from drawings: in another colour, several copies, or two things side by side.

An artist drew each thing once, in one colour. The composed pictures show the meaning of "blue",
"three" and "and" for every thing.
"""

import functools
import io
import itertools
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from common.split_names import TRAIN
from data.builtin.artist_sets import Drawing
from data.builtin.artist_words import common_names
from data.builtin.colour_words import COLOURS, WHITE_NAME, Repainter, name_of
from data.builtin.drawings import draw
from data.builtin.openmoji_splits import crc
from data.builtin.wording import article, plural

COLOURED, COUNTED, BESIDE = 5, 2, 2
"""Number of pictures of each kind that are composed from one drawing."""
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLACES: Mapping[int, Sequence[tuple[float, float]]] = {
    2: ((0.0, 0.25), (0.5, 0.25)),
    3: ((0.25, 0.0), (0.0, 0.5), (0.5, 0.5)),
    4: ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)),
}
"""Left and upper edge of each copy, in shares of the picture; a copy has half its side."""
HELD_OUT = 8
"""One in this many pairs (thing and colour, thing and number, two things) is held out, for all
artists."""
KEPT = 128 << 20
"""Bytes of small layers that are kept: each is part of several pictures."""
_COLOUR = re.compile(rf"\b({'|'.join([*COLOURS, WHITE_NAME])})\b ?")

Layer = Float[np.ndarray, "y x 4"]
"""Red, green, blue and opacity in 0..1."""


@dataclass(frozen=True)
class Composed:
    """One picture and its attributes."""

    key: str
    pixels: UInt8[np.ndarray, "y x 3"]
    about: Mapping[str, Any]
    """captions, weights, split, concept, style and what the picture is composed of."""


def compose(drawings: Sequence[Drawing], side: int) -> Iterator[Composed]:
    """The composed pictures of all drawings, of `side` pixels, in order. No other drawing is shown,
    so give those that are trained on."""
    by_style = {
        style: [drawing for drawing in drawings if drawing.style == style]
        for style in dict.fromkeys(drawing.style for drawing in drawings)
    }
    things = {drawing.emoji.name for drawing in drawings}
    words = {drawing.key: words_for(drawing, things) for drawing in drawings}
    for drawing in drawings:
        if not words[drawing.key]:
            continue
        yield from recoloured(drawing, words[drawing.key], side)
        yield from counted(drawing, words[drawing.key], side)
        yield from beside(drawing, words, by_style[drawing.style], side)


def words_for(drawing: Drawing, things: Container[str]) -> list[str]:
    """The thing's names without its usual colour: an apple, not a red apple. `things` are the names
    of all things that are drawn."""
    names = [_COLOUR.sub("", drawing.emoji.name), *common_names(drawing.emoji.name, things)]
    return [name for name in dict.fromkeys(names) if name and not _COLOUR.search(name)]


def recoloured(drawing: Drawing, words: Sequence[str], side: int) -> Iterator[Composed]:
    """The drawing in other colours and, if it has a clear one, in its own."""
    layer = open_layer(drawing, side)
    rgb, alpha = layer[..., :3], layer[..., 3]
    own_colour = name_of(rgb, alpha)
    if own_colour is not None:
        yield _of_colour(drawing, words, own_colour, layer, is_own=True)
    others = [name for name in COLOURS if name != own_colour]
    others.sort(key=lambda name: crc(f"{drawing.key}:{name}"))
    repainter = Repainter(rgb, alpha)
    painted = ((name, repainter.paint(name)) for name in others)
    recolourings = ((name, pixels) for name, pixels in painted if pixels is not None)
    for name, pixels in itertools.islice(recolourings, COLOURED):
        shown = np.concatenate([pixels, alpha[..., None]], -1)
        yield _of_colour(drawing, words, name, shown, is_own=False)


def _of_colour(
    drawing: Drawing, words: Sequence[str], colour: str, layer: Layer, is_own: bool
) -> Composed:
    """A picture with its colour named. A drawing's own colour is always trained on: its picture is
    known anyway."""
    phrases = [_with_article(f"{colour} {word}", article(drawing.emoji, word)) for word in words]
    held_out = not is_own and crc(f"{drawing.emoji.concept}:{colour}") % HELD_OUT == 0
    return Composed(
        f"{drawing.key}-{colour}",
        on_white([layer], [(0.0, 0.0)], len(layer)),
        {
            **captions_of(phrases, drawing.style),
            "split": "colour" if held_out else TRAIN,
            "concept": drawing.emoji.concept,
            "colour": colour,
            "style": drawing.style,
        },
    )


def counted(drawing: Drawing, words: Sequence[str], side: int) -> Iterator[Composed]:
    """Several copies of the drawing."""
    plurals = [many for word in words for many in plural(word)]
    numbers = sorted(NUMBERS, key=lambda n: crc(f"{drawing.key}:{n}"))[:COUNTED]
    layer = small_layer(drawing, side // 2)
    for n in numbers if plurals else ():
        held_out = crc(f"{drawing.emoji.concept}:{n}") % HELD_OUT == 0
        phrases = [f"{NUMBERS[n]} {many}" for many in plurals] + [f"{n} {plurals[0]}"]
        yield Composed(
            f"{drawing.key}-{n}",
            on_white([layer] * n, PLACES[n], side),
            {
                **captions_of(phrases, drawing.style),
                "split": "number" if held_out else TRAIN,
                "concept": drawing.emoji.concept,
                "number": NUMBERS[n],
                "style": drawing.style,
            },
        )


def beside(
    drawing: Drawing, words: Mapping[str, list[str]], others: Sequence[Drawing], side: int
) -> Iterator[Composed]:
    """The drawing to the left of another one by the same artist; `words` are by key."""
    ranked = sorted(others, key=lambda other: crc(f"{drawing.key}+{other.key}"))
    for other in itertools.islice((o for o in ranked if o is not drawing), BESIDE):
        if not words[other.key]:
            continue
        ours, theirs = (
            [_with_article(word, article(part.emoji, word)) for word in words[part.key]]
            for part in (drawing, other)
        )
        pair = sorted((drawing.emoji.concept, other.emoji.concept))
        layers = [small_layer(part, side // 2) for part in (drawing, other)]
        yield Composed(
            f"{drawing.key}+{other.emoji.hexcode.lower()}",
            on_white(layers, PLACES[2], side),
            {
                **captions_of([f"{a} and {b}" for a in ours for b in theirs], drawing.style),
                "split": "pair" if crc("+".join(pair)) % HELD_OUT == 0 else TRAIN,
                "concept": f"{drawing.emoji.concept}+{other.emoji.concept}",
                "style": drawing.style,
            },
        )


def captions_of(phrases: Sequence[str], style: str) -> dict[str, list[Any]]:
    """Captions and weights: each phrase with the artist's name and, as often, without."""
    captions = [*(f"{phrase}, {style} style" for phrase in phrases), *phrases]
    return {"captions": captions, "weights": [round(1 / len(captions), 6)] * len(captions)}


def _with_article(phrase: str, takes_article: str) -> str:
    """The phrase with a or an, if the thing has an article at all."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}" if takes_article else phrase


def open_layer(drawing: Drawing, side: int) -> Layer:
    """A drawing on a transparent ground."""
    return _open_svg(side, drawing.svg)


def small_layer(drawing: Drawing, side: int) -> Layer:
    """The same, drawn once and kept; it is read-only."""
    return _keeper(side)(drawing.svg)


@functools.cache
def _keeper(side: int) -> Callable[[str], Layer]:
    """A function SVG → layer that keeps the last KEPT bytes of layers."""
    layers = max(KEPT // (16 * side**2), 1)
    return functools.lru_cache(layers)(functools.partial(_open_svg, side))


def _open_svg(side: int, svg: str) -> Layer:
    picture = Image.open(io.BytesIO(draw(svg, side, ground=None))).convert("RGBA")
    layer = np.asarray(picture, np.float32) / 255
    layer.setflags(write=False)
    return layer


def on_white(
    layers: Sequence[Layer], places: Sequence[tuple[float, float]], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The layers side by side on a white picture; places are in shares of it."""
    picture = np.ones((side, side, 3), np.float32)
    for layer, (left, top) in zip(layers, places, strict=True):
        x, y = round(left * side), round(top * side)
        part = picture[y : y + len(layer), x : x + len(layer)]
        part += layer[..., 3:] * (layer[..., :3] - part)
    return (picture * 255).round().astype(np.uint8)

"""The choice of held-out pictures."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.split_names import HELD_OUT
from data.encoding.splits import split_of
from data.pictures.decoding import read_picture
from tests.data.samples import saved

COUNT = 100


@cache
def drawing(number: int) -> Image.Image:
    """A picture of smooth blots on a coloured ground; both depend on `number`."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 255, (10, 10, 3), np.uint8)
    coarse = (0.6 * coarse + 0.4 * random.integers(0, 255, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC)


def held_out(pictures: list[bytes], size: int = 64, share: float = 0.3) -> set[int]:
    return {i for i, p in enumerate(pictures) if split_of(read_picture(p, size), share) == HELD_OUT}


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return [saved(drawing(i)) for i in range(COUNT)]


@pytest.fixture(scope="module")
def chosen(originals: list[bytes]) -> set[int]:
    """The originals that are held out."""
    return held_out(originals)


def test_about_the_wanted_share_is_held_out(originals: list[bytes], chosen: set[int]) -> None:
    assert 0.2 * COUNT < len(chosen) < 0.4 * COUNT
    assert held_out(originals, share=0.0) == set()
    assert held_out(originals[:9], share=1.0) == set(range(9))


@pytest.mark.parametrize(
    ("kind", "options", "scale", "size", "others"),
    [
        ("PNG", {}, 1.0, 128, 0.01),
        ("PNG", {}, 1.0, 256, 0.01),
        ("JPEG", {"quality": 92}, 1.0, 64, 0.01),
        ("WEBP", {"quality": 90}, 1.0, 128, 0.02),
        ("PNG", {}, 0.75, 64, 0.01),
    ],
)
def test_a_copy_of_another_size_or_format_is_on_the_same_side(
    chosen: set[int],
    kind: str,
    options: dict[str, Any],
    scale: float,
    size: int,
    others: float,
) -> None:
    side = round(160 * scale)
    copies = [saved(drawing(i).resize((side, side)), kind, **options) for i in range(COUNT)]
    assert len(chosen ^ held_out(copies, size)) <= others * COUNT


def test_a_mirrored_copy_is_on_the_same_side(chosen: set[int]) -> None:
    mirrored = [saved(ImageOps.mirror(drawing(i))) for i in range(COUNT)]
    assert held_out(mirrored) == chosen


def test_larger_shares_hold_smaller_ones(originals: list[bytes], chosen: set[int]) -> None:
    assert held_out(originals, share=0.1) < chosen

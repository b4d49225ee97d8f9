"""Drawings on a plain backdrop keep their ends; photographs are cropped."""

import io

import numpy as np
import pytest
from PIL import Image

from data.pictures.decoding import read_picture
from data.pictures.squares import Fit, backdrop, to_square

SKY = (135, 206, 235)


def drawing(backdrop: tuple[int, ...], width: int = 96, height: int = 32) -> Image.Image:
    """A black bar from the left edge to the right one, in the middle of a plain backdrop."""
    picture = Image.new("RGB", (width, height), backdrop)
    picture.paste((0, 0, 0), (0, height // 2 - 4, width, height // 2 + 4))
    return picture


def photograph(width: int = 96, height: int = 32) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3))
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height))


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), SKY])
@pytest.mark.parametrize("turned", [False, True])
def test_a_drawing_keeps_its_ends_on_its_own_backdrop(
    colour: tuple[int, ...], turned: bool
) -> None:
    picture = drawing(colour)
    picture.paste((255, 0, 0), (0, 12, 8, 20))  # a red end
    if turned:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    square = np.asarray(to_square(picture, 48, "auto", "white"))
    assert (square[[0, -1]] == colour).all() or (square[:, [0, -1]] == colour).all()
    assert ((square[..., 0] > 200) & (square[..., 1] < 60)).any()
    assert not np.array_equal(square, np.asarray(to_square(picture, 48, "crop", "white")))


def test_a_photograph_is_cropped_to_its_middle() -> None:
    picture = photograph()
    np.testing.assert_array_equal(
        to_square(picture, 32, "auto", "white"), picture.crop((32, 0, 64, 32))
    )


def test_a_square_is_only_scaled() -> None:
    for picture in (photograph(64, 64), drawing((255, 255, 255), 64, 64)):
        auto, crop = (np.asarray(to_square(picture, 32, fit, "white")) for fit in ("auto", "crop"))
        np.testing.assert_array_equal(auto, crop)


def test_pad_takes_the_colour_that_is_given() -> None:
    square = np.asarray(to_square(drawing(SKY), 48, "pad", "#010203"))
    assert (square[0] == (1, 2, 3)).all()


def test_jpeg_noise_is_no_second_colour_and_half_a_border_is_no_backdrop() -> None:
    file = io.BytesIO()
    drawing((250, 250, 250)).save(file, "JPEG", quality=60)
    found = backdrop(Image.open(file))
    assert found is not None
    assert max(abs(value - 250) for value in found) <= 4
    half = photograph(64, 64)
    half.paste((255, 255, 255), (0, 0, 64, 30))
    assert backdrop(half) is None


def test_transparent_parts_are_backdrop_too() -> None:
    picture = drawing(SKY).convert("RGBA")
    picture.putalpha(Image.fromarray((np.asarray(picture)[..., 0] == 0).astype(np.uint8) * 255))
    file = io.BytesIO()
    picture.save(file, "PNG")
    square = read_picture(file.getvalue(), 48, "auto", "#123456")
    assert (square[0] == (0x12, 0x34, 0x56)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (5000, 10)])
@pytest.mark.parametrize("fit", ["auto", "pad", "crop", "stretch"])
def test_the_thinnest_pictures_become_squares(size: tuple[int, int], fit: Fit) -> None:
    picture = Image.new("RGB", size, SKY)
    square = np.asarray(to_square(picture, 32, fit, "#87ceeb"))
    assert square.shape == (32, 32, 3)
    assert (abs(square.astype(int) - SKY) <= 1).all()

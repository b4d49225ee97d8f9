"""Labelled picture grids, and the texts in PNG files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures.grids import (
    EMPTY_PROMPT,
    INK,
    PAGE,
    _font_for,
    _wrap,
    enlarge,
    picture_grid,
    save_png,
)
from tests.png_texts import read_png_about


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def find(page: Image.Image, part: Image.Image) -> bool:
    """True if the page contains the pixels of `part` somewhere."""
    whole, wanted = np.asarray(page), np.asarray(part)
    corners = np.argwhere((whole == wanted[0, 0]).all(axis=-1))
    height, width, _ = wanted.shape
    return any(np.array_equal(whole[y : y + height, x : x + width], wanted) for y, x in corners)


@pytest.mark.parametrize("per_prompt", [1, 3, 12])
def test_every_picture_is_on_the_page_enlarged(per_prompt: int) -> None:
    pictures = noise(5, per_prompt, 16, 16)
    page = picture_grid([f"number {i}" for i in range(5)], pictures, scale=2)
    assert all(find(page, enlarge(p, 2)) for p in pictures.reshape(-1, 16, 16, 3))


def test_enlarging_repeats_pixels() -> None:
    picture = noise(4, 4)
    large = np.asarray(enlarge(picture, 3))
    assert large.shape == (12, 12, 3)
    np.testing.assert_array_equal(large[::3, ::3], picture)
    np.testing.assert_array_equal(large[2::3, 2::3], picture)


def test_small_pictures_are_shown_larger_and_large_ones_as_they_are() -> None:
    small, large = (
        picture_grid(["a"], np.zeros((1, 2, size, size, 3), np.uint8)) for size in (64, 256)
    )
    assert np.all(np.asarray(small)[40, 20 : 20 + 128] == 0)
    assert np.all(np.asarray(large)[40, 20 : 20 + 256] == 0)
    assert tuple(np.asarray(small)[40, 20 + 128]) == PAGE


def test_prompts_are_written_in_ink() -> None:
    page = picture_grid(["red heart"], np.full((1, 1, 64, 64, 3), 255, np.uint8))
    below = np.asarray(page)[20 + 128 :]
    assert (below == INK).all(axis=-1).any()


def test_long_prompts_are_wrapped_between_words_and_then_cut() -> None:
    prompt = "a person with a kite on a hill " * 20
    lines = _wrap(prompt, 128, 4)
    assert len(lines) == 4
    assert lines[-1].endswith("…")
    assert all(_font_for(line).getlength(line) <= 128 for line in lines)
    assert all(set(line.rstrip("…").split()) <= set(prompt.split()) for line in lines[:-1])


def test_words_too_long_for_a_line_are_broken() -> None:
    lines = _wrap("m" * 40, 128, 9)
    assert len(lines) > 1
    assert "".join(lines) == "m" * 40


@pytest.mark.parametrize(
    "prompt", ["", "\n\t", "\ud800", "a\x00b\nc", "日本 ❤ سلام", "W" * 100_000]
)
def test_no_prompt_breaks_the_grid(prompt: str) -> None:
    page = picture_grid([prompt, "other"], noise(2, 1, 8, 8), scale=8)
    assert page.size[0] < 400


def test_an_empty_prompt_is_called_that() -> None:
    assert _wrap("  ", 1000, 1) == [EMPTY_PROMPT]


def test_a_page_is_as_full_as_it_can_be() -> None:
    widths = {
        count: picture_grid(["a"] * count, noise(count, 1, 8, 8), scale=8).size[0]
        for count in (1, 3, 4, 12, 30)
    }
    assert {count: (width - 40 + 8) // 72 for count, width in widths.items()} == {
        1: 1,
        3: 3,
        4: 4,
        12: 4,
        30: 6,
    }


def test_a_note_stands_under_each_picture_and_moves_no_picture() -> None:
    pictures = noise(2, 3, 8, 8)
    plain, noted = (
        np.asarray(picture_grid(["a", "b"], pictures, scale=8, notes=notes))
        for notes in (None, [["seed 0 · 1"] * 3] * 2)
    )
    cell = slice(20, 20 + 64)
    np.testing.assert_array_equal(plain[cell, cell], noted[cell, cell])
    assert noted.shape[0] > plain.shape[0]
    below = noted[84:98, cell]
    assert (below != np.array(PAGE, np.uint8)).any()


def test_prompts_and_pictures_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="1 prompts do not name 2 × 3 pictures"):
        picture_grid(["a"], noise(2, 3, 8, 8))


def test_a_png_keeps_its_pixels_and_says_how_it_was_drawn(tmp_path: Path) -> None:
    picture = noise(8, 8)
    path = tmp_path / "deep" / "one.png"
    save_png(path, picture, {"prompt": "a “blue” 猫", "seed": 7, "settings": {"temperature": 0.5}})
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    about = read_png_about(path)
    assert about == {"prompt": "a “blue” 猫", "seed": "7", "settings": '{"temperature": 0.5}'}


def test_a_lone_surrogate_does_not_keep_a_png_from_being_written(tmp_path: Path) -> None:
    save_png(tmp_path / "one.png", noise(8, 8), {"prompt": "a\ud800b"})
    assert read_png_about(tmp_path / "one.png")["prompt"] == "a?b"

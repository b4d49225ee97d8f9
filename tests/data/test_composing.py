"""data.composed: named colours, numbers, pairs, held-out combinations; the same bytes each time."""

import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.split_names import TRAIN
from data import composed
from data.builtin.artist_sets import Drawing, IconSet, join, read_shipped
from data.builtin.artist_splits import assign_splits
from data.builtin.artist_things import THINGS
from data.builtin.colour_words import COLOURS, Colour, Repainter, name_of, to_lch, to_rgb
from data.builtin.composing import HELD_OUT, NUMBERS, Composed, compose, counted, words_for
from data.builtin.drawings import digest, rasterise, read_table
from data.builtin.openmoji_splits import crc

NAMES = ("cat", "red apple", "rocket", "scissors")


@pytest.fixture(scope="module")
def sets() -> list[IconSet]:
    """Four things by two of the artists."""
    codes = {one.name: one.hexcode for one in read_table()}
    wanted = {codes[name] for name in NAMES}
    return [
        replace(
            one,
            icons={slug: body for slug, body in one.icons.items() if slug in wanted},
            code_points={slug: code for slug, code in one.code_points.items() if slug in wanted},
        )
        for one in read_shipped()[:2]
    ]


@pytest.fixture(scope="module")
def drawings(sets: list[IconSet]) -> list[Drawing]:
    return join(sets, read_table())


@pytest.fixture(scope="module")
def pictures(drawings: list[Drawing]) -> list[Composed]:
    return list(compose(drawings, 32))


def plain(colour: Colour) -> tuple[np.ndarray, np.ndarray]:
    """A square of one colour with black lines and a white spot."""
    rgb = np.broadcast_to(to_rgb(np.array(colour)), (8, 8, 3)).copy()
    rgb[0], rgb[4, 4] = 0, 1
    return rgb, np.ones((8, 8))


def test_colours_there_and_back() -> None:
    rgb = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(to_rgb(to_lch(rgb)), rgb, atol=1e-5)
    light, chroma, _ = to_lch(np.ones(3))
    assert light == pytest.approx(1, abs=1e-4)
    assert chroma == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("before", COLOURS)
def test_every_colour_becomes_every_other(before: str) -> None:
    rgb, alpha = plain(COLOURS[before])
    assert name_of(rgb, alpha) == before
    if before == "black":  # outlines and fillings cannot be told apart
        return
    for after in COLOURS:
        painted = Repainter(rgb, alpha).paint(after)
        assert painted is not None
        assert name_of(painted, alpha) == after
        np.testing.assert_allclose(painted[0], 0, atol=0.02)  # lines stay black


def test_a_drawing_of_many_colours_is_not_repainted() -> None:
    rgb = np.stack(
        [np.tile(to_rgb(np.array(COLOURS[n])), (9, 1)) for n in ("red", "green", "blue")]
    )
    alpha = np.ones(rgb.shape[:2])
    assert Repainter(rgb, alpha).paint("yellow") is None
    assert name_of(rgb, alpha) is None


def test_a_drawing_of_nothing_has_no_colour() -> None:
    rgb, alpha = np.ones((4, 4, 3)), np.zeros((4, 4))
    assert name_of(rgb, alpha) is None
    assert Repainter(rgb, alpha).paint("red") is None


def test_words_leave_the_colour_to_be_said(drawings: list[Drawing]) -> None:
    apple = next(drawing for drawing in drawings if drawing.emoji.name == "red apple")
    assert words_for(apple, {"red apple"}) == ["apple"]


def test_captions_say_what_is_shown(pictures: list[Composed]) -> None:
    for picture in pictures:
        first = str(picture.about["captions"][0]).removesuffix(f", {picture.about['style']} style")
        assert first in picture.about["captions"]
        if "colour" in picture.about:
            assert f"{picture.about['colour']} " in first
        elif "number" in picture.about:
            assert first.startswith(f"{picture.about['number']} ")
        else:
            assert " and " in first
        assert sum(picture.about["weights"]) == pytest.approx(1, abs=1e-4)
    texts = {caption for picture in pictures for caption in picture.about["captions"]}
    assert {"a green cat", "an orange cat"} & texts
    assert {"two apples", "three apples", "4 rockets"} & texts
    assert not [text for text in texts if "red red" in text or text.endswith("scissorses")]


def test_copies_are_as_many_as_said(drawings: list[Drawing]) -> None:
    for drawing in drawings[:2]:
        ink = {
            picture.about["number"]: (255 - picture.pixels.astype(int)).sum()
            for picture in counted(drawing, ["thing"], 64)
        }
        counts = {word: n for n, word in NUMBERS.items()}
        each = {ink[word] / counts[word] for word in ink}
        assert max(each) == pytest.approx(min(each), rel=1e-6)


def test_held_out_combinations_are_held_out_for_all_artists(pictures: list[Composed]) -> None:
    splits: dict[tuple[str, str], set[str]] = {}
    for picture in pictures:
        kind = str(picture.about.get("colour") or picture.about.get("number") or "and")
        own = (
            "colour" in picture.about and crc(f"{picture.about['concept']}:{kind}") % HELD_OUT == 0
        )
        if own and picture.about["split"] == TRAIN:
            continue  # the original drawing has this colour
        splits.setdefault((picture.about["concept"], kind), set()).add(picture.about["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {TRAIN} in splits.values()


def test_each_picture_has_a_name_of_its_own_and_the_same_bytes(
    drawings: list[Drawing], pictures: list[Composed]
) -> None:
    assert len({picture.key for picture in pictures}) == len(pictures)
    again = list(itertools.islice(compose(drawings, 32), 12))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(again, pictures, strict=False))


def test_the_command_shows_only_drawings_that_are_trained_on(
    sets: list[IconSet],
    drawings: list[Drawing],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(composed, "find_sets", lambda config: sets)
    config = composed.ComposedConfig(out=str(tmp_path / "out"), image_size=32)
    composed.main(config)
    composed.main(config)  # the second call finds the finished folder
    counts = capsys.readouterr().out
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        names = tar.getnames()
        about = [json.load(f) for n in names if n.endswith(".json") and (f := tar.extractfile(n))]
    assert f"{sum(one['split'] == TRAIN for one in about)} train" in counts
    pngs = rasterise({one.key: one.svg for one in drawings}, 64)
    splits = assign_splits(drawings, {key: digest(png) for key, png in pngs.items()})
    hidden = {(d.emoji.concept, d.style) for d in drawings if splits[d.key] != TRAIN}
    shown = {(part, one["style"]) for one in about for part in one["concept"].split("+")}
    assert not hidden & shown
    assert all(one["license"] for one in about)
    assert set(NAMES) <= THINGS


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size 33 is no even number"):
        composed.main(composed.ComposedConfig(image_size=33))

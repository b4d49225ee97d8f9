"""SVG drawings: read as other pictures are, and harmless."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures.decoding import UnreadablePictureError, read_picture, size_of
from data.sources import open_source
from tests.data.layouts import put

NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(inside: str, root: str = 'viewBox="0 0 20 10"') -> bytes:
    return f"<svg {NAMES} {root}>{inside}</svg>".encode()


RED = svg('<rect width="20" height="10" fill="red"/>')


@pytest.mark.parametrize(
    "data",
    [
        RED,
        gzip.compress(RED),
        b"\xef\xbb\xbf" + RED,
        b"<?xml version='1.0' encoding='iso-8859-1'?><!-- <html> \xe9 -->" + RED,
        b'<!DOCTYPE svg [<!ENTITY a "b"> <!ENTITY c "d">]>\n' + RED,
    ],
)
def test_a_drawing_is_read_whatever_is_before_it(data: bytes) -> None:
    pixels = read_picture(data, 8, fit="pad", background="blue")
    assert (pixels[4, 4] == (255, 0, 0)).all()
    assert (pixels[0, 4] == (0, 0, 255)).all()  # it is twice as wide as high
    assert size_of(data) == (20, 10)


def test_what_a_drawing_leaves_free_shows_the_background() -> None:
    data = svg('<circle cx="5" cy="5" r="4"/>', 'width="10mm" height="10"')
    assert (read_picture(data, 8, background="#00ff00")[0, 0] == (0, 255, 0)).all()
    assert size_of(data) == (10, 10)


def test_a_drawing_shows_no_file_of_the_machine(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    for path in (tmp_path / "secret.png", "/dev/zero"):
        shown = f'<image xlink:href="{path}" width="20" height="10"/>'
        assert (read_picture(svg(shown), 8) == 255).all()


def test_a_hostile_drawing_is_an_unreadable_picture() -> None:
    copies = "".join(
        f'<g id="a{i + 1}">' + f'<use xlink:href="#a{i}"/>' * 10 + "</g>" for i in range(9)
    )
    bomb = f'<defs><g id="a0"><rect width="1" height="1"/></g>{copies}</defs>'
    for inside in ("<g>" * 100_000 + "</g>" * 100_000, bomb + '<use xlink:href="#a9"/>', "<g>"):
        with pytest.raises(UnreadablePictureError, match="an SVG drawing that resvg cannot draw"):
            read_picture(svg(inside), 8)
    with pytest.raises(UnreadablePictureError, match="an SVG drawing of more than"):
        read_picture(gzip.compress(svg(" " * (17 << 20))), 8)
    huge = svg('<rect width="9" height="9"/>', 'width="100000" height="100000"')
    assert read_picture(huge, 8).shape == (8, 8, 3)


def test_drawings_are_pictures_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "red_thing.svg", RED)
    source = open_source(tmp_path, need_captions=False)
    assert np.ptp(source[0].picture(8)[4, 4]) == 255

"""Views of a picture beside the plain one."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.pictures.views import Views, make_views, names_side, views_of
from data.sources import PLAIN, Example


def test_views_are_further_squares_of_the_same_picture() -> None:
    ramp = np.linspace(0, 255, 100).round().astype(np.uint8)
    pixels = np.stack(
        [
            np.tile(ramp, (100, 1)),
            np.tile(ramp[:, None], 100),
            ramp * 0 + 7 + np.zeros((100, 1), np.uint8),
        ],
        axis=2,
    )
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    example = Example("", file.getvalue(), (), "", {}, "")
    square = example.picture(20)
    views = make_views(example, square, PLAIN, Views(9))
    assert len(views) == 8
    for view in views:
        assert view.shape == (20, 20, 3)
        assert (abs(view[..., 2].astype(int) - 7) <= 1).all()
        width = int(view[0, -1, 0]) - int(view[0, 0, 0])
        assert 0.78 * 242 < width < 1.02 * 255  # up to a quarter closer, and never past the edges
    assert len({view.tobytes() for view in views}) > 6
    mirrored = make_views(example, square, PLAIN, Views(9, flips=True))
    falling = [int(view[0, -1, 0]) < int(view[0, 0, 0]) for view in mirrored]
    assert 0 < sum(falling) < 8
    captioned = replace(example, captions=(("a cat", 1.0), ("a cat on the left of a dog", 1.0)))
    unmirrored = make_views(captioned, square, PLAIN, views_of(captioned, Views(9, flips=True)))
    assert [view.tobytes() for view in unmirrored] == [view.tobytes() for view in views]


@pytest.mark.parametrize(
    ("caption", "is_side"),
    [
        ("The LEFT hand", True),
        ("links steht ein Hund", True),
        ("a right angle", False),
        ("x", False),
    ],
)
def test_captions_that_name_a_side_are_known(caption: str, is_side: bool) -> None:
    assert names_side(Example("", b"", ((caption, 1.0),), "", {}, "")) == is_side

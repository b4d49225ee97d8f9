"""Random changes of pictures for training a CLIP."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from clip import views
from clip.views import ViewConfig

compiled = jax.jit(views.random_views, static_argnums=0)
"""Compiled once for a configuration and a shape, as in an update."""
STILL = ViewConfig(shift=0.0, zoom=1.0, colour=0.0)


def random_views(
    config: ViewConfig, pictures: np.ndarray, which: slice = slice(None)
) -> np.ndarray:
    """Views of pictures with the keys `which` of 16."""
    keys = jax.random.split(jax.random.key(0), 16)[which]
    return np.asarray(compiled(config, keys, pictures.astype(np.float32)))


def pictures(side: int = 16) -> np.ndarray:
    """Sixteen pictures without sharp edges, in −0.5..0.5."""
    y, x = np.mgrid[:side, :side] / side
    phases = np.arange(16)[:, None, None, None]
    return 0.5 * np.sin(
        3 * y[None, :, :, None]
        + 2 * x[None, :, :, None]
        + phases
        + np.arange(3.0)[None, None, None]
    )


def test_without_changes_a_picture_stays_as_it_is() -> None:
    np.testing.assert_allclose(random_views(STILL, pictures()), pictures(), atol=1e-6)


def test_a_shift_moves_a_picture_and_continues_its_edge() -> None:
    """In a picture with a ramp along x, all inner pixels show the shift."""
    ramp = np.broadcast_to(np.linspace(-1, 1, 17)[None, None, :, None], (16, 17, 17, 3))
    moved = random_views(replace(STILL, shift=0.25), ramp)
    by = (ramp - moved)[:, 8, 8, 0] * 8  # pixels
    assert np.abs(by).max() > 2
    assert np.abs(by).max() <= 0.25 * 17
    columns = np.clip(np.arange(17)[None] - by[:, None], 0, 16)
    np.testing.assert_allclose(moved[:, 8, :, 0], columns / 8 - 1, atol=1e-4)


@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_a_zoom_keeps_the_middle_and_shows_no_nothing(factor: float) -> None:
    flat = np.full((16, 16, 16, 3), 0.75)
    zoomed = random_views(replace(STILL, zoom=factor, shift=0.1), flat)
    np.testing.assert_allclose(zoomed, flat, atol=1e-5)


def test_a_colour_changes_strength_and_level_of_each_channel_within_bounds() -> None:
    grey = np.full((16, 4, 4, 3), 0.5)
    changed = random_views(replace(STILL, colour=0.2), grey) - grey
    assert np.ptp(changed, axis=(1, 2)).max() < 1e-6
    assert 0.1 < np.abs(changed).max() <= 0.2 * 1.5 + 1e-6
    assert np.ptp(changed[:, 0, 0], axis=1).min() > 0


def test_a_view_depends_on_its_own_key_alone() -> None:
    both = random_views(ViewConfig(), pictures())
    last = random_views(ViewConfig(), pictures()[-1:], slice(15, 16))
    np.testing.assert_allclose(both[-1:], last, atol=1e-6)
    assert float(np.abs(both[0] - both[1]).max()) > 0.1


@pytest.mark.parametrize(
    "limits", [{"shift": 1.1}, {"shift": -0.1}, {"zoom": 0.9}, {"zoom": 1e9}, {"colour": 3.0}]
)
def test_limits_that_leave_nothing_of_a_picture_are_refused(limits: dict[str, float]) -> None:
    (name,) = limits
    with pytest.raises(ValueError, match=rf"views\.{name} must be in \d\.\.\d, not"):
        ViewConfig(**limits)

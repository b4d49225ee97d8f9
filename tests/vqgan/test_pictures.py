"""Batches of pictures, and the metrics and grids of their reconstructions."""

import jax
import numpy as np
import pytest
from PIL import Image

from data.order import order
from vqgan.pictures import PictureStream, evenly_spaced, shift_pictures
from vqgan.reconstructions import make_figures, write_grid


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), dtype=np.uint8)


def test_a_batch_is_a_function_of_the_update_alone(pictures):
    first, second = (PictureStream(pictures, order, seed=3) for _ in range(2))
    for n in range(3):
        first.batch(n, first.next_indices(4 * n, 4), 2)
    indices = first.next_indices(28, 4)
    np.testing.assert_array_equal(indices, second.next_indices(28, 4))
    jax.tree.map(
        np.testing.assert_array_equal, first.batch(7, indices, 2), second.batch(7, indices, 2)
    )


def test_an_epoch_shows_every_picture_once(pictures):
    stream = PictureStream(pictures, order, seed=3)
    parts = [stream.batch(n, stream.next_indices(5 * n, 5), shift=0) for n in range(2)]
    seen = np.concatenate([part["pixels"] for part in parts])
    assert {p.tobytes() for p in seen} == {p.tobytes() for p in pictures}


def test_a_shift_moves_and_repeats_the_border(pictures):
    offsets = np.array([[0, 1], [2, 1], [1, 1]])
    down, up, same = shift_pictures(pictures[:3], offsets, shift=1)
    np.testing.assert_array_equal(down[1:], pictures[0][:-1])
    np.testing.assert_array_equal(down[0], pictures[0][0])
    np.testing.assert_array_equal(up[:-1], pictures[1][1:])
    np.testing.assert_array_equal(same, pictures[2])


def fake_reconstruct(params, pictures):
    """A fake whose tokens and metrics depend on the first pixel."""
    mark = pictures[:, 0, 0, 0]
    return {
        "tokens": np.stack([mark % 4, mark % 2], axis=1).astype(np.int32),
        "reconstruction": pictures / 127.5 - 1.0,
        "psnr": mark.astype(np.float32),
        "ssim": mark / 255,
    }


def test_figures_are_means_over_pictures_and_leave_train_out_of_all(pictures):
    sets = {"train": pictures[:4], "tone": pictures[4:9], "random": pictures[9:]}
    figures = make_figures(fake_reconstruct, sets, codebook_size=8)({})
    marks = pictures[:, 0, 0, 0]
    assert figures["eval/train/psnr"] == pytest.approx(marks[:4].mean())
    assert figures["eval/tone/psnr"] == pytest.approx(marks[4:9].mean())
    assert figures["eval/all/psnr"] == pytest.approx(marks[4:].mean())
    tokens = np.concatenate([marks[4:] % 4, marks[4:] % 2])
    assert figures["eval/all/usage"] == len(np.unique(tokens)) / 8


def test_a_grid_has_a_row_of_reconstructions_below_each_row(pictures, tmp_path):
    path = tmp_path / "grids" / "1.png"
    write_grid(path, fake_reconstruct, {}, pictures, columns=4)
    grid = np.asarray(Image.open(path))
    assert grid.shape == (6 * 8, 4 * 8, 3)
    np.testing.assert_array_equal(grid[:8], grid[8:16])
    np.testing.assert_array_equal(grid[32:40, :8], pictures[8])


def test_spread_takes_pictures_from_everywhere(pictures):
    few = evenly_spaced([pictures[:5], pictures[5:]], 3)
    np.testing.assert_array_equal(few, pictures[[0, 4, 9]])
    assert len(evenly_spaced([pictures], 99)) == 10

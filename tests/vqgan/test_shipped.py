"""The tokenizer in vqgan/openmoji: its size, and that it paints held-out pictures well."""

import io

import numpy as np
import pytest
from PIL import Image

from data.drawings import rasterise
from data.emoji import svg_files
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.objective import make_reconstruction

# Never trained on: a tone, a couple, a gender in some tone, and four concepts.
HELD_OUT = (
    "1F44D-1F3FB",
    "1FAF1-1F3FE-200D-1FAF2-1F3FC",
    "1F469-1F3FD-200D-1F3A8",
    "1F98B",
    "1F9E7",
    "1F1E7-1F1EE",
    "1F1EA-1F1EA",
)


@pytest.fixture(scope="module")
def shipped():
    return pretrained.load()


def test_it_has_the_shape_that_the_presets_expect(shipped):
    config, _ = shipped
    assert (config.image_size, config.grid_size, config.codebook_size) == (64, 8, 1024)
    assert (pretrained.SHIPPED / pretrained.WEIGHTS_FILE).stat().st_size <= 3e6
    assert (pretrained.SHIPPED / "MODEL_CARD.md").is_file()


def test_held_out_pictures_come_back_alike_and_in_their_colours(shipped):
    config, params = shipped
    files = rasterise(svg_files(HELD_OUT), config.image_size)
    pictures = [Image.open(io.BytesIO(files[name])).convert("RGB") for name in HELD_OUT]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    found = make_reconstruction(build(config))(params, pixels)
    assert np.mean(found["psnr"]) > 18
    painted = (np.asarray(found["reconstruction"]) / 2 + 0.5) * 255
    # The mean colour of what is not paper.
    ink = (pixels < 250).any(-1, keepdims=True)
    real, drawn = ((x * ink).sum((1, 2)) / ink.sum((1, 2)) for x in (pixels, painted))
    assert np.abs(real - drawn).max() < 12

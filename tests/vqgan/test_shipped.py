"""The tokenizers in vqgan/: their sizes, and the quality of held-out reconstructions."""

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image

from data.builtin.artist_sets import join, read_shipped
from data.builtin.artist_splits import assign_splits
from data.builtin.artist_things import choose
from data.builtin.drawings import digest, rasterise, read_table
from data.emoji import svg_files
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.reconstructions import make_reconstruction

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
SLOW = pytest.mark.slow


@cache
def all_drawings():
    """Reading them takes a second."""
    return join(read_shipped(), read_table())


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
    # The mean colour of all pixels that are not background.
    ink = (pixels < 250).any(-1, keepdims=True)
    real, drawn = ((x * ink).sum((1, 2)) / ink.sum((1, 2)) for x in (pixels, painted))
    assert np.abs(real - drawn).max() < 12


@pytest.mark.parametrize(("nth", "codes"), [(6, 400), pytest.param(1, 1000, marks=SLOW)])
def test_the_general_one_paints_other_artists_drawings_better_than_openmoji_s(nth, codes):
    drawings = choose(all_drawings(), "things")
    digests = {drawing.key: drawing.key for drawing in drawings}  # as if no two were one picture
    if nth == 1:
        drawn = rasterise({drawing.key: drawing.svg for drawing in drawings}, 64)
        digests = {key: digest(png) for key, png in drawn.items()}
    splits = assign_splits(drawings, digests)
    held_out = [drawing for drawing in drawings if splits[drawing.key] == "style"][::nth]
    files = rasterise({drawing.key: drawing.svg for drawing in held_out}, 64).values()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    found = {}
    for name in ("openmoji", "general"):
        config, params = pretrained.load(pretrained.SHIPPED.with_name(name))
        found[name] = make_reconstruction(build(config))(params, pixels)
    assert found["general"]["psnr"].mean() > found["openmoji"]["psnr"].mean() + 2
    assert len(np.unique(found["general"]["tokens"])) > codes
    folder = pretrained.SHIPPED.with_name("general")
    assert (folder / pretrained.WEIGHTS_FILE).stat().st_size <= 6e6
    assert (folder / "DATA.md").is_file()


@pytest.mark.parametrize("nth", [64, pytest.param(8, marks=SLOW)])
def test_the_same_weights_paint_pictures_of_twice_the_size_better(tmp_path, nth):
    folder = pretrained.SHIPPED.with_name("general")
    assert pretrained.convert(folder, tmp_path / "large", image_size=128) == "pastel"
    drawings = [drawing for drawing in all_drawings() if drawing.style == "noto"][::nth]
    found = {}
    for path, size in ((folder, 64), (tmp_path / "large", 128)):
        config, params = pretrained.load(path)
        assert config.image_length == (size // 8) ** 2
        files = rasterise({drawing.key: drawing.svg for drawing in drawings}, size).values()
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
        found[size] = make_reconstruction(build(config))(params, pixels)["psnr"].mean()
    assert found[128] > found[64] + 1

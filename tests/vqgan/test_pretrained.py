"""A VQGAN's folder is read as it was written."""

import json

import jax
import numpy as np
import pytest

from vqgan import pretrained
from vqgan.autoencoder import build


@pytest.fixture
def saved(tmp_path, tiny_vqgan):
    params = build(tiny_vqgan).init(jax.random.key(0))
    pretrained.save(tmp_path, tiny_vqgan, params)
    return tmp_path, params


def test_weights_come_back_as_float32_within_half_precision(saved, tiny_vqgan):
    folder, params = saved
    config, loaded = pretrained.load(folder)
    assert config == tiny_vqgan
    assert str(jax.tree.structure(loaded)) == str(jax.tree.structure(params))
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, np.asarray(other).astype(np.float16))


def test_a_second_round_trip_changes_nothing(saved, tmp_path):
    folder, _ = saved
    config, loaded = pretrained.load(folder)
    pretrained.save(tmp_path / "again", config, loaded)
    again = (tmp_path / "again" / pretrained.WEIGHTS_FILE).read_bytes()
    assert again == (folder / pretrained.WEIGHTS_FILE).read_bytes()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        pretrained.load(tmp_path)


def test_weights_of_another_layout_are_refused(saved):
    folder, _ = saved
    path = folder / pretrained.CONFIG_FILE
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "codebook_size": 64}))
    with pytest.raises(ValueError, match="codebook"):
        pretrained.load(folder)


def test_a_cut_file_is_named(saved):
    folder, _ = saved
    for name in (pretrained.WEIGHTS_FILE, pretrained.CONFIG_FILE):
        path = folder / name
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ValueError, match=f"{name} (cannot be read|is not a configuration)"):
            pretrained.load(folder)


def test_unknown_settings_are_refused(saved):
    folder, _ = saved
    path = folder / pretrained.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(ValueError, match="colour"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": "64"},
        {"norm": "batchnorm"},
        {"lookup": "hash"},
        {"channels": 8},
        {"channels": ["8", "16"]},
        {"stem_channels": -8},
        {"code_dim": 4.5},
        {"encoder_blocks": [1, 10**9]},
        {"patch_size": 0},
        {"normalize_codes": "no"},
        {"normalize_codes": 1},
        {"image_size": 16.0},
        {"encoder_blocks": [True, True]},
        {"channels": [8, 0]},
        {"channels": [[8], 16]},
        {"latent_channels": 0},
        {"codebook_size": 0},
        {"origin": {"format": "taming", "config": {}, "arrays": 5}},
    ],
)
def test_settings_of_another_kind_are_refused(saved, changes):
    folder, _ = saved
    path = folder / pretrained.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match="config.json is not a configuration"):
        pretrained.load(folder)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(saved, text):
    folder, _ = saved
    (folder / pretrained.CONFIG_FILE).write_text(text)
    with pytest.raises(ValueError, match="config.json is not a configuration"):
        pretrained.load(folder)

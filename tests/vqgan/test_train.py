"""`python -m vqgan.train` on a folder of small pictures: it runs, resumes, releases."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from training.config import CheckpointConfig
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.config import LossConfig, QuantizerConfig, TrainingConfig
from vqgan.objective import make_codebook_care, make_loss
from vqgan.train import PicturesConfig, RunConfig, main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Flat squares on white, of 40 colours and places."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = np.full((16, 16, 3), 255, np.uint8)
        y, x = random.integers(0, 8, 2)
        pixels[y : y + 8, x : x + 8] = random.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def run_config(tiny_vqgan, source, tmp_path):
    return RunConfig(
        output_dir=str(tmp_path / "run"),
        model=tiny_vqgan,
        data=PicturesConfig(str(source)),
        quantizer=QuantizerConfig(warmup_steps=2, refresh_every=2, refresh_pictures=32),
        training=TrainingConfig(steps=6, batch_size=4, eval_every=0, grid_every=0),
        checkpoint=CheckpointConfig(every=3),
    )


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = ("hours", "time/", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows]


def test_stop_and_resume_equal_a_straight_run(run_config, tmp_path):
    main(run_config)
    stopped = tmp_path / "stopped"  # as if killed after its checkpoint at step 3
    shutil.copytree(tmp_path / "run", stopped)
    for name in ("checkpoints/6", "vqgan", "grids"):
        shutil.rmtree(stopped / name)
    main(dataclasses.replace(run_config, output_dir=str(stopped)))
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "stopped")
    for name in (pretrained.WEIGHTS_FILE, pretrained.CONFIG_FILE):
        released = [tmp_path / run / "vqgan" / name for run in ("run", "stopped")]
        assert released[0].read_bytes() == released[1].read_bytes()
    card = (tmp_path / "run" / "vqgan" / "MODEL_CARD.md").read_text()
    assert "6 updates" in card
    assert len(list((tmp_path / "run" / "grids").glob("*.png"))) == 1


def test_a_warm_codebook_moves_only_with_the_loss_of_quantized_pictures(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = autoencoder.init(jax.random.key(0))
    loss = make_loss(autoencoder, LossConfig())
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)

    @jax.jit
    def codebook_gradient(is_quantized):
        batch = {
            "pixels": jax.numpy.asarray(pixels),
            "is_quantized": jax.numpy.full((4,), is_quantized),
        }
        keys = jax.random.split(jax.random.key(1), 4)
        return jax.grad(lambda p: loss(p, batch, keys)[0])(params)["codebook"]

    assert np.abs(codebook_gradient(False)).max() == 0
    assert np.abs(codebook_gradient(True)).max() > 0


def test_a_started_codebook_is_used_whole_and_stays_when_refreshed(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = autoencoder.init(jax.random.key(0))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 16, 16, 3), dtype=np.uint8)
    start, refresh = make_codebook_care(autoencoder)
    codebook = start(params, jax.numpy.asarray(pixels), jax.random.key(1))
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1, rtol=1e-5)
    again = refresh({**params, "codebook": codebook}, jax.numpy.asarray(pixels), jax.random.key(2))
    assert np.isclose(again, codebook, atol=1e-6).all(axis=-1).mean() > 0.9


def test_an_empty_folder_is_one_clear_error(run_config, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        main(dataclasses.replace(run_config, data=PicturesConfig(str(tmp_path / "empty"))))


def test_a_run_without_time_for_a_codebook_is_refused(run_config):
    late = QuantizerConfig(warmup_steps=6)
    with pytest.raises(ValueError, match="warmup_steps=1"):
        main(dataclasses.replace(run_config, quantizer=late))

"""quantizer.fixed: only the decoder learns, on tokens that are found once."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from optim.config import OptimConfig
from tests.first_states import create_eagerly
from tests.tiny import TINY_VQGAN, first_vqgan
from tests.vqgan.runs import config_of, metrics, same
from training.update import shared
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.config import QuantizerConfig
from vqgan.finetuning import fit
from vqgan.pictures import FoundTokens
from vqgan.train import main

DEEPER = dataclasses.replace(TINY_VQGAN, decoder_blocks=(1, 2), tried_codes=2)


def save_given(folder, seed=7):
    pretrained.save(folder / "given", TINY_VQGAN, first_vqgan(TINY_VQGAN, seed))
    return folder / "given"


def settings_of(source, folder):
    """Settings of a run that trains the decoder of the VQGAN in folder/given."""
    return dataclasses.replace(
        config_of(source, folder / "run"),
        init_from=str(folder / "given"),
        model=DEEPER,
        quantizer=QuantizerConfig(fixed=True),
        optim=OptimConfig(train_only=("decoder/*",), learning_rate=1e-2, weight_decay=0.1),
    )


@pytest.fixture
def given(tmp_path):
    """A VQGAN to start from."""
    return save_given(tmp_path)


@pytest.fixture
def fixed(source, tmp_path, given):
    return settings_of(source, tmp_path)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """(settings of a finished run, paths of the VQGANs that it opened)."""
    folder, opened, read_vqgan = tmp_path_factory.mktemp("fixed"), [], pretrained.load
    save_given(folder)
    fixed = settings_of(source, folder)

    def load(path, *config):
        opened.append(str(path))
        return read_vqgan(path, *config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load", load)
        patch.setattr(shared, "create", create_eagerly)
        main(fixed)
    return fixed, opened


def test_only_the_decoder_learns_and_a_resume_is_bit_for_bit(trained, tmp_path):
    fixed, _ = trained
    config, found = pretrained.load(f"{fixed.output_dir}/vqgan")
    _, before = pretrained.load(fixed.init_from)
    assert config == DEEPER
    assert same(found["encoder"], before["encoder"])
    assert same(found["codebook"], before["codebook"])
    assert not np.array_equal(
        found["decoder"]["stem"]["kernel"], before["decoder"]["stem"]["kernel"]
    )
    rows = metrics(Path(fixed.output_dir))
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    stopped = tmp_path / "stopped"  # as if killed after its checkpoint at step 3
    shutil.copytree(fixed.output_dir, stopped)
    for name in ("checkpoints/6", "vqgan"):
        shutil.rmtree(stopped / name)
    main(dataclasses.replace(fixed, output_dir=str(stopped)))
    assert metrics(stopped) == rows


def test_the_weights_to_start_from_are_opened_once(trained):
    fixed, opened = trained
    assert opened.count(fixed.init_from) == 1


def test_a_run_does_not_continue_with_the_tokens_of_other_weights(trained):
    fixed, _ = trained
    folder = Path(fixed.init_from).parent
    save_given(folder, seed=8)
    longer = dataclasses.replace(fixed, training=dataclasses.replace(fixed.training, steps=8))
    with pytest.raises(ValueError, match="init_from"):
        main(longer)
    save_given(folder)


def test_a_deeper_decoder_begins_as_the_given_one(given):
    autoencoder = build(DEEPER)
    params, lines = fit(given, DEEPER, autoencoder.init(jax.random.key(1)))
    tokens = np.arange(32).reshape(8, 4)
    painted = jax.jit(autoencoder.decode)(params, tokens)
    before = jax.jit(build(TINY_VQGAN).decode)(pretrained.load(given)[1], tokens)
    assert np.abs(painted - before).max() < 0.05 * np.abs(before).max()
    assert lines[-1].endswith("identity: block_1_1")


@pytest.mark.parametrize("name", ["encoder_blocks", "decoder_blocks"])
def test_other_numbers_of_blocks_are_refused(given, name):
    deep = given.with_name("deep")
    pretrained.save(deep, DEEPER, first_vqgan(DEEPER))
    other = dataclasses.replace(TINY_VQGAN, encoder_blocks=(2, 1))
    path, config = (given, other) if name == "encoder_blocks" else (deep, TINY_VQGAN)
    with pytest.raises(ValueError, match=f"a different model: model.{name}"):
        fit(path, config, first_vqgan(config))


def test_each_picture_is_encoded_once():
    pictures = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    asked = []

    def find(some):
        asked.extend(some[:, 0, 0, 0].tolist())
        return np.repeat(some[:, 0, 0, :1], 4, axis=1)

    tokens = FoundTokens(pictures, 4, find, per_call=1)
    for indices in ([3, 1, 3], [1, 9], [3, 0]):
        np.testing.assert_array_equal(tokens.of(np.array(indices))[:, 0], indices)
    assert sorted(asked) == [0, 1, 3, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "--init_from"),
        ({"optim": OptimConfig()}, r"train_only is \[\]"),
        ({"optim": OptimConfig(train_only=("decoder/*", "encoder/*"))}, "train_only is"),
    ],
)
def test_settings_that_would_change_the_tokens_are_refused(fixed, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(fixed, **changes)


def test_a_shift_or_a_discriminator_is_refused(fixed):
    shifted = dataclasses.replace(fixed.training, shift=2)
    with pytest.raises(ValueError, match="--training.shift=0"):
        dataclasses.replace(fixed, training=shifted)
    adversarial = dataclasses.replace(fixed.loss, adversarial=0.8, adversarial_from=1)
    with pytest.raises(ValueError, match="--loss.adversarial=0"):
        dataclasses.replace(fixed, loss=adversarial)

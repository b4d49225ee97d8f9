"""Text encoders of other programs: from their folder to drawn pictures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import train
from command_line.parser import parse_config
from config import Config
from data.encode import main as encode
from data.encoding.config import EncodeConfig
from data.text.encoder_tokenizers import check_beside
from data.text.tokens import open_tokenizer
from drawing.drawer import make_drawer
from drawing.opening import open_checkpoint
from model import transformer
from recipe import make_recipe
from release import ReleaseConfig, release
from starting.text_encoder import with_text_encoder, with_text_weights
from tests.entry.test_train import losses, tiny
from tests.first_states import placed
from tests.published.text_encoders import T5, write_t5
from tests.tiny import first_params
from training.devices import placing
from training.devices.devices import find_devices
from training.hooks import distance_hooks
from training.saved.runs import copy_once
from training.update.build import make_state

FEW = ("--training.eval_every=0", "--checkpoint.every=1")
FROZEN = "--optim.freeze=[text_embedding/*, encoder*]"


@pytest.fixture(scope="session")
def t5(records_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 folder: weights, and a tokenizer with T5's padding and end tokens."""
    folder = write_t5(tmp_path_factory.mktemp("t5") / "tiny")
    shutil.copyfile(records_folder / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def records(records_folder: Path, t5: Path) -> Path:
    """Records whose captions are tokenised by that tokenizer."""
    beside = records_folder.parent
    encode(
        EncodeConfig(
            source=(str(beside / "pictures"),),
            out=str(beside / "for_t5"),
            vqgan=str(beside / "vqgan"),
            tokenizer=str(t5),
            text_length=8,
        )
    )
    return beside / "for_t5"


def fit(
    records: Path, run: Path, folder: Path, *more: str, steps: int = 2
) -> dict[str, np.ndarray]:
    """The final weights of a run."""
    few = (*FEW, f"--training.steps={steps}")
    words = tiny(records, run, f"--text_encoder={folder}", *few, *more)
    train.main(parse_config(Config, words))
    found, _ = jax.tree.flatten_with_path(open_checkpoint(run).params)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in found}


def test_frozen_stays_as_in_its_file_and_a_release_draws(
    records: Path, t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    found = fit(records, run, t5, FROZEN)
    there = load_file(t5 / "model.safetensors")
    for name, key in (
        ("text_embedding/tokens", "shared.weight"),
        ("encoder_norm/scale", "encoder.final_layer_norm.weight"),
        ("encoder_bias/table", text_key("relative_attention_bias")),
    ):
        np.testing.assert_array_equal(found[name], there[key])
    up = there["encoder.block.1.layer.1.DenseReluDense.wi_0.weight"].T
    np.testing.assert_array_equal(found["encoder/run0/mlp/up/kernel"][1], up)
    assert found["text_projection/kernel"].shape == (T5["d_model"], 16)
    output = "".join(capsys.readouterr())
    assert "sets model.encoder_depth (was 1, now 2)" in output
    assert "2 arrays" in output
    assert "are not used: decoder (1), lm_head (1)" in output
    release(ReleaseConfig(str(run), str(tmp_path / "release"), dtype="float32"))
    pictures = []
    for folder in (run, tmp_path / "release"):
        opened = open_checkpoint(folder)
        drawer = make_drawer(transformer.build(opened.model), opened.sampling, folder, 2)
        pictures.append(drawer.draw(opened.params, ["tan bar 1", "dark bar 2"], [1, 2]))
    np.testing.assert_array_equal(pictures[0], pictures[1])


def text_key(ending: str) -> str:
    return f"encoder.block.0.layer.0.SelfAttention.{ending}.weight"


def test_the_distance_is_measured_from_the_weights_of_the_encoder(
    records: Path,
    t5: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From random weights it would be the distance of T5's weights to them, more than 1. Without
    the encoder's folder, which a resume does not need, nothing is measured."""
    monkeypatch.setattr(placing, "create", placed)
    encoder = tmp_path / "encoder"
    copy_once(t5, encoder)
    words = tiny(
        records, tmp_path / "run", f"--text_encoder={encoder}", "--training.observe=economy"
    )
    config = with_text_encoder(parse_config(Config, words))
    recipe, devices = make_recipe(config), find_devices(config.parallel)
    fresh = placed(make_state(config, recipe.init, recipe.players), devices)
    params, _ = with_text_weights(config, fresh.params, np.asarray)
    (hook,) = distance_hooks(config, recipe, devices)
    for state, expected in (
        (fresh._replace(params=placing.place(params, devices)), True),
        (fresh, False),
    ):
        found = hook.action(0, state)
        assert found is not None
        assert (found["look/distance"] == 0) == expected
    shutil.rmtree(encoder)
    (hook,) = distance_hooks(config, recipe, devices)
    assert [hook.action(n, fresh) for n in range(2)] == [{}, {}]
    assert capsys.readouterr().err.count("look/distance is not measured: ") == 1


def test_tuned_moves_every_part_and_a_run_resumes_without_the_folder(
    records: Path, t5: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    copy_once(t5, gone)
    found = fit(records, tmp_path / "run", gone)
    there = load_file(t5 / "model.safetensors")
    for name, key in (
        ("text_embedding/tokens", "shared.weight"),
        ("encoder_bias/table", text_key("relative_attention_bias")),
    ):
        assert not np.array_equal(found[name], there[key])
        np.testing.assert_allclose(found[name], there[key], atol=0.1)  # it started from there
    shutil.rmtree(gone)
    fit(records, tmp_path / "run", gone, steps=3)
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3]


def test_encoders_and_settings_that_do_not_fit_are_refused_by_name(
    records: Path, records_folder: Path, t5: Path, tmp_path: Path
) -> None:
    def settled(folder: Path, *more: str, at: Path = records) -> Config:
        words = tiny(at, tmp_path / "run", f"--text_encoder={folder}", *more)
        return with_text_encoder(parse_config(Config, words))

    other = tmp_path / "other"
    copy_once(t5, other)
    words = json.loads((other / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(words))
    for folder, more, said in (
        (other, (), f"encode again with --tokenizer={other}"),
        (tmp_path / "none", (), "has no config.json"),
        (t5, ("--model.encoder.dim=32",), "model.encoder says dim=32"),
        (records / "vqgan", (), "config.json is not a configuration of a text encoder: model_type"),
    ):
        with pytest.raises(ValueError, match=said):
            settled(folder, *more)
    config = settled(t5)
    assert config.model.encoder.buckets == T5["relative_attention_num_buckets"]
    assert with_text_encoder(config) == config
    clip = tmp_path / "clip"
    clip.mkdir()
    about = {"model_type": "clip_text_model", "max_position_embeddings": 5}
    (clip / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="text_length 8 is more than the 5 tokens"):
        settled(clip)
    arrays = load_file(t5 / "model.safetensors")
    arrays["shared.weight"] = arrays["shared.weight"][:, :3].copy()
    save_file(arrays, other / "model.safetensors")
    fresh = first_params(config.model)
    with pytest.raises(ValueError, match=r"first shared.weight: \(300, 3\) instead of"):
        with_text_weights(replace(config, text_encoder=str(other)), fresh, np.asarray)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": 3}, "has eos_token_id 1, and .*config.json says 3"),
        ({"pad_token_id": 5}, "has pad_token_id 0, and .*config.json says 5"),
        ({"vocab_size": 100}, "tokens, and vocab_size in .* is 100"),
        ({"model_type": "bart", "max_position_embeddings": 6}, "use --text_length=6 or less"),
    ],
    ids=["end", "padding", "size", "length"],
)
def test_a_tokenizer_beside_another_config_is_refused(
    t5: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """CLIP's old configurations, whose end and padding ids are wrong, are accepted."""
    tokenizer = open_tokenizer(t5)
    check_beside(t5, tokenizer, 8)
    (tmp_path / "config.json").write_text(json.dumps({**T5, **changes}))
    with pytest.raises(ValueError, match=message):
        check_beside(tmp_path, tokenizer, 8)
    old = {"eos_token_id": 2, "pad_token_id": 1, "vocab_size": 300}
    about = {"model_type": "clip", "text_config": old}
    (tmp_path / "config.json").write_text(json.dumps(about))
    check_beside(tmp_path, tokenizer, 8)

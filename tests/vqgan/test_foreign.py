"""Settings and files of other programs' VQGANs are read, or refused by name."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from published import taming_layout
from tests.torch_files import Called, Hostile, Name, state_dict, write_old, write_zip
from tests.vqgan.examples import GUMBEL, equal, settings
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.config import LossConfig, VQGANConfig
from vqgan.layers import KINDS, Layer
from vqgan.objective import make_loss
from weights.msgpack import read_msgpack, write_msgpack


@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
def test_a_checkpoint_is_read_without_what_its_training_left(tmp_path: Path, write: Any) -> None:
    weights = load_file(GUMBEL)
    left = {
        "loss.discriminator.main.0.weight": np.ones((2, 3), np.float32),
        "model_ema.decay": np.array(0.9, np.float32),
        "quantize.temperature": np.array(0.9, np.float32),
    }
    tensors, storages = state_dict({**weights, **left}, is_old=write is write_old)
    beside = {"epoch": 3, "hyper_parameters": Called(Name("omegaconf", "DictConfig"), ())}
    write(tmp_path / "last.ckpt", {**beside, "state_dict": tensors}, storages)
    config, params = pretrained.load(tmp_path / "last.ckpt", settings())
    expected_config, expected = pretrained.load(GUMBEL)
    assert config == expected_config
    assert equal(params, expected)


WRAPPERS = (
    *(("state_dict", ""), ("model", "module."), ("params_ema", "first_stage_model.")),
    *(("net", "_orig_mod."), ("ema_state_dict", "module._orig_mod."), ("vqgan", "model.")),
    ("state_dict.state_dict", "vae."),
)


@pytest.mark.parametrize(("under", "prefix"), WRAPPERS)
def test_a_checkpoint_is_read_inside_of_what_wraps_it(
    under: str, prefix: str, tmp_path: Path
) -> None:
    arrays = {prefix + key: array for key, array in load_file(GUMBEL).items()}
    if prefix == "first_stage_model.":
        arrays["transformer.tok_emb.weight"] = np.ones((2, 2), np.float32)
    tensors, storages = state_dict(arrays)
    tree: dict[str, Any] = tensors
    for name in reversed(under.split(".")):
        tree = {"epoch": 3, "optimizer": {"state": {}}, name: tree}
    write_zip(tmp_path / "last.ckpt", tree, storages)
    whole = {"model": {"params": {"first_stage_config": {"params": settings()}}}}
    config, params = pretrained.load(tmp_path / "last.ckpt", whole)
    expected_config, expected = pretrained.load(GUMBEL)
    assert config == expected_config
    assert equal(params, expected)


def test_of_several_sets_of_tensors_a_usual_name_or_an_average_is_taken(tmp_path: Path) -> None:
    arrays = load_file(GUMBEL)
    tensors, storages = state_dict({**arrays, **{f"ema.{k}": 2 * a for k, a in arrays.items()}})
    plain = {key: tensor for key, tensor in tensors.items() if not key.startswith("ema.")}
    average = {key[4:]: tensor for key, tensor in tensors.items() if key.startswith("ema.")}
    about = {"model": {"params": settings()}}
    for tree, factor in (
        ({"model": plain, "ema": average}, 2),
        (
            {f"net.{k}": t for k, t in plain.items()} | {f"ema.{k}": t for k, t in average.items()},
            2,
        ),
    ):
        write_zip(tmp_path / "last.ckpt", tree, storages)
        _, params = pretrained.load(tmp_path / "last.ckpt", about)
        _, expected = pretrained.load(GUMBEL)
        assert equal(params, jax.tree.map(lambda leaf, f=factor: f * leaf, expected))
    write_zip(tmp_path / "last.ckpt", {"one": plain, "two": average}, storages)
    with pytest.raises(ValueError, match="several sets of tensors, 'one', 'two'; save one of them"):
        pretrained.load(tmp_path / "last.ckpt", about)


@pytest.mark.parametrize("name", ["last.ckpt", "last.safetensors"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of git-lfs"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
    ],
    ids=["lfs", "html"],
)
def test_what_was_downloaded_in_place_of_weights_is_named(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read: it is {why}"):
        pretrained.load(tmp_path / name, settings())


def test_settings_may_be_flat_nested_or_a_file_of_any_usual_name(checkpoint: Path) -> None:
    expected, _ = pretrained.load(GUMBEL)
    assert expected.lookup == "classifier"
    nested = settings()
    flat = {**nested.pop("ddconfig"), **nested}
    whole = yaml.safe_load(checkpoint.with_name("model.yaml").read_text())
    for given in (flat, {**flat, "gumbel": True}, settings(), whole, whole["model"]):
        assert pretrained.load(checkpoint, given)[0] == expected
    for path in (checkpoint, checkpoint.parent):
        assert pretrained.load(path)[0] == expected
    checkpoint.with_name("model.yaml").rename(checkpoint.with_name("last.yml"))
    checkpoint.with_name("other.yaml").write_text("{}")
    assert pretrained.load(checkpoint)[0] == expected
    checkpoint.with_name("last.yml").unlink()
    checkpoint.with_name("last.json").write_text(json.dumps(settings()))
    assert pretrained.load(checkpoint)[0] == expected


def test_a_folder_may_hold_its_settings_as_config_json(tmp_path: Path) -> None:
    shutil.copy(GUMBEL, tmp_path / "model.safetensors")
    target = {"target": "taming.models.vqgan.GumbelVQ", "params": settings()}
    for values in ({"model": target}, settings()):
        (tmp_path / "config.json").write_text(json.dumps(values))
        for path in (tmp_path, tmp_path / "model.safetensors"):
            assert equal(pretrained.load(path)[1], pretrained.load(GUMBEL)[1])


def test_a_checkpoint_without_settings_asks_for_them(checkpoint: Path) -> None:
    checkpoint.with_name("model.yaml").unlink()
    with pytest.raises(ValueError, match=r"last.safetensors needs .* yaml beside it"):
        pretrained.load(checkpoint)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        pretrained.load(checkpoint.parent)


def test_one_checkpoint_of_several_is_not_guessed(checkpoint: Path) -> None:
    shutil.copy(checkpoint, checkpoint.with_suffix(".ckpt"))
    with pytest.raises(ValueError, match="several checkpoints, last.ckpt, last.safetensors"):
        pretrained.load(checkpoint.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"double_z": True}, "double_z is True; only False"),
        ({"give_pre_end": True}, "give_pre_end"),
        ({"in_channels": 1}, "in_channels is 1; only 3"),
        ({"attn_type": "linear"}, "attn_type"),
        ({"remap": "used.npy"}, "remap"),
        ({"n_embed": None}, "n_embed must be a whole number"),
        ({"ch": "32"}, "ch must be a whole number"),
        ({"num_res_blocks": 10**9}, "num_res_blocks must be a whole number in 1..64"),
        ({"ch_mult": 2}, "ch_mult must be a list"),
        ({"ch_mult": [1, 0.5]}, "ch_mult must be a whole number"),
        ({"ch_mult": []}, "ch_mult"),
        ({"ch": 16}, "multiples of 32"),
        ({"resolution": 33}, "try 32"),
        ({"resamp_with_conv": "no"}, "resamp_with_conv must be true or false"),
        ({"gumbel": "yes"}, "gumbel must be true or false"),
    ],
)
def test_settings_that_cannot_be_said_are_named(changes: dict[str, Any], message: str) -> None:
    values = settings()
    flat = {**values.pop("ddconfig"), **values, **changes}
    with pytest.raises(ValueError, match=f"config is not a configuration of a VQGAN: .*{message}"):
        pretrained.load(GUMBEL, flat)


def test_resampling_without_convolutions_is_reported_and_computed() -> None:
    values = settings()
    flat = {**values.pop("ddconfig"), **values, "resamp_with_conv": False}
    config = taming_layout.read_settings(flat)
    assert config.resampling == "pool"
    assert taming_layout.read_settings(taming_layout.write_settings(config)) == config
    leaves = pretrained.plan_of("taming", config).values()
    assert not [key for leaf in leaves for key in leaf.keys if "sample" in key]
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 4, 1)
    layer = Layer("between", "pool", 1, 1)
    pooled = KINDS["pool"].apply(layer, {}, jnp.asarray(x))
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[2.5, 4.5]])
    repeated = KINDS["repeat"].apply(layer, {}, pooled)
    np.testing.assert_array_equal(repeated[0, :, :, 0], [[2.5, 2.5, 4.5, 4.5]] * 2)
    pixels = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    autoencoder = build(config)
    params = jax.eval_shape(autoencoder.init, jax.random.key(0))
    tokens = jax.eval_shape(autoencoder.encode, params, pixels)
    assert jax.eval_shape(autoencoder.decode, params, tokens) == pixels


CHANGES = {
    "missing": ("encoder.conv_out.bias", None),
    "surplus": ("encoder.conv_out.scale", np.zeros(3, np.float32)),
    "misshaped": ("decoder.up.0.block.1.conv1.weight", np.zeros((32, 32, 3, 1), np.float32)),
    "whole": ("quantize.embed.weight", np.zeros((48, 24), np.int32)),
}


@pytest.mark.parametrize(("key", "array"), CHANGES.values(), ids=list(CHANGES))
def test_a_checkpoint_with_other_arrays_is_refused_by_key(
    checkpoint: Path, key: str, array: np.ndarray | None
) -> None:
    arrays = load_file(GUMBEL)
    arrays.pop(key, None)
    arrays.update({} if array is None else {key: array})
    save_file(arrays, checkpoint)
    torch_file = write_zip(checkpoint.with_suffix(".ckpt"), *state_dict(arrays))
    for path in (checkpoint, torch_file):
        with pytest.raises(ValueError, match=f"{path.name} .*{key}"):
            pretrained.load(path)


@pytest.mark.parametrize(
    ("module", "leaf", "array"),
    [
        ("conv_in", "bias", None),
        ("conv_in", "scale", np.zeros(3, np.float32)),
        ("conv_in", "kernel", np.zeros((3, 3, 3, 33), np.float32)),
    ],
)
def test_a_flax_file_with_other_arrays_is_refused_by_key(
    flax_folder: Path, module: str, leaf: str, array: np.ndarray | None
) -> None:
    tree = read_msgpack(flax_folder / "flax_model.msgpack")
    tree["encoder"][module].pop(leaf, None)
    if array is not None:
        tree["encoder"][module][leaf] = array
    write_msgpack(flax_folder / "flax_model.msgpack", tree)
    with pytest.raises(ValueError, match=f"flax_model.msgpack .*encoder/{module}/{leaf}"):
        pretrained.load(flax_folder)


def test_the_kind_of_lookup_decides_which_keys_there_must_be() -> None:
    with pytest.raises(ValueError, match="quantize.proj"):
        pretrained.load(GUMBEL, {**settings(), "gumbel": False})
    assert pretrained.load(GUMBEL, settings())[0].lookup == "classifier"


def test_the_other_spelling_of_the_codebook_is_read(checkpoint: Path) -> None:
    arrays = load_file(GUMBEL)
    arrays["quantize.embedding.weight"] = arrays.pop("quantize.embed.weight")
    save_file(arrays, checkpoint)
    assert equal(pretrained.load(checkpoint)[1], pretrained.load(GUMBEL)[1])


@pytest.mark.parametrize("name", ["last.ckpt", "last.pt", "last.safetensors"])
def test_a_pickle_is_refused_and_not_executed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    path = checkpoint.with_name(name)
    path.write_bytes(pickle.dumps({"state_dict": Hostile()}))
    for given in (None, settings()):
        with pytest.raises(ValueError, match=name):
            pretrained.load(path, given)
    assert not Path("executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_cut_files_are_named(checkpoint: Path, flax_folder: Path, share: float) -> None:
    torch_file = write_zip(checkpoint.with_suffix(".ckpt"), *state_dict(load_file(GUMBEL)))
    for path in (checkpoint, torch_file, flax_folder / "flax_model.msgpack"):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
            pretrained.load(path)


BOMB = "\n".join(
    ["x0: &x0 [1, 1]", *(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]" for i in range(1, 60)), "ch: *x59"]
)
"""A list of twice a list of twice a list, …; written out it would be 2^60 long."""


@pytest.mark.parametrize(
    "text", [BOMB, "", "[", "- 1", "{model: 3}", "{a: !!python/name:os.system }"]
)
def test_settings_files_of_another_form_are_named(checkpoint: Path, text: str) -> None:
    checkpoint.with_name("model.yaml").write_text(text)
    with pytest.raises(ValueError, match="model.yaml"):
        pretrained.load(checkpoint)


def test_a_classifier_of_codes_is_not_trained_in_silence(tiny_vqgan: VQGANConfig) -> None:
    autoencoder = build(dataclasses.replace(tiny_vqgan, lookup="classifier"))
    with pytest.raises(ValueError, match="lookup classifier"):
        make_loss(autoencoder, LossConfig(), 0)

"""VQGANs of other programs: the same tokens and pictures, and back to the same bytes."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from data.encode import open_encoder
from tests.torch_files import Called, Name, state_dict, write_old, write_zip
from vqgan import pretrained, published, taming
from vqgan.autoencoder import build
from vqgan.config import LossConfig, VQGANConfig, taming_f16
from vqgan.layers import KINDS, Layer
from vqgan.objective import make_loss
from weights.msgpack import read_msgpack, write_msgpack

ROOT = Path(__file__).parents[2]
REFERENCE = Path(__file__).parents[1] / "reference"
SHARED = ROOT.parent / "shared" / "reference" / "vqgan_torch"
FLAX = REFERENCE / "vqgan_flax" / "vqgan_flax"
GUMBEL = REFERENCE / "vqgan_torch" / "gumbel_res1.weights.safetensors"
RES1 = {
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 32,
    "z_channels": 32,
    "in_channels": 3,
    "out_ch": 3,
    "double_z": False,
    "dropout": 0.0,
    "n_embed": 64,
    "embed_dim": 32,
    "gumbel": False,
}
VECTORS = {
    "vqgan_flax": (FLAX, REFERENCE / "vqgan_flax" / "vqgan_flax.io.safetensors", None),
    "gumbel_res1": (GUMBEL, GUMBEL.with_name("gumbel_res1.io.safetensors"), None),
    # 3.3 MB of random weights, too much to keep a copy.
    "vqgan_res1": (SHARED / "vqgan_res1.ckpt", SHARED / "vqgan_res1.io.safetensors", RES1),
}


def settings() -> dict[str, Any]:
    """Those of gumbel_res1, as its json nests them."""
    values = json.loads(GUMBEL.with_name("gumbel_res1.json").read_text())
    return {name: values[name] for name in ("ddconfig", "n_embed", "embed_dim")}


def equal(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """gumbel_res1 with a yaml beside it."""
    shutil.copy(GUMBEL, tmp_path / "last.safetensors")
    target = {"target": "taming.models.vqgan.GumbelVQ", "params": settings()}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": target}))
    return tmp_path / "last.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The one of vqgan-jax, to change."""
    return Path(shutil.copytree(FLAX, tmp_path / "flax"))


@pytest.mark.parametrize("name", VECTORS)
def test_tokens_and_pictures_are_those_of_the_software_it_comes_from(name: str) -> None:
    path, vectors, values = VECTORS[name]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    io = load_file(vectors)
    config, params = pretrained.load(path, values)
    autoencoder = build(config)
    encoded = jax.jit(lambda x: (autoencoder.latents(params, x), autoencoder.encode(params, x)))
    latents, tokens = encoded(io["inputs/image"])
    np.testing.assert_allclose(latents, io["outputs/prequant"], rtol=0, atol=5e-5)
    assert (tuple(tokens.shape), tokens.dtype.name) == ((3, config.image_length), "int32")
    np.testing.assert_array_equal(tokens, io["outputs/indices"])

    given = np.concatenate([io["outputs/indices"], io["outputs/decode_indices"]])
    painted = [io["outputs/reconstruction"], io["outputs/decode_indices_image"]]
    expected = np.concatenate(painted)
    pixels = jax.jit(lambda x: autoencoder.decode(params, x))(given)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=5e-5)


def shapes(config: VQGANConfig) -> dict[str, tuple[int, ...]]:
    """Of a layout, by their key in taming-transformers."""
    return {leaf.keys[0]: leaf.shape for leaf in pretrained.plan_of("taming", config).values()}


def test_every_parameter_has_the_key_and_shape_that_torch_says() -> None:
    keys = json.loads(GUMBEL.with_name("gumbel_res1.json").read_text())["keys"]
    config, _ = pretrained.load(GUMBEL)
    assert shapes(config) == {key: tuple(shape) for key, shape in keys.items()}


def test_the_published_f16_models_have_these_keys() -> None:
    """vqgan_imagenet_f16_16384, written down from its layout: ch 128, ch_mult 1 1 2 2 4."""
    expected: dict[str, tuple[int, ...]] = {"quantize.embedding.weight": (16384, 256)}

    def module(name: str, *shape: int) -> None:
        expected[f"{name}.weight"], expected[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, c_in: int, c_out: int) -> None:
        module(f"{name}.norm1", c_in)
        module(f"{name}.conv1", c_out, c_in, 3, 3)
        module(f"{name}.norm2", c_out)
        module(f"{name}.conv2", c_out, c_out, 3, 3)
        if c_in != c_out:
            module(f"{name}.nin_shortcut", c_out, c_in, 1, 1)

    def attention(name: str) -> None:
        module(f"{name}.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            module(f"{name}.{part}", 512, 512, 1, 1)

    widths = [128, 128, 256, 256, 512]
    for side in ("encoder", "decoder"):
        block(f"{side}.mid.block_1", 512, 512)
        attention(f"{side}.mid.attn_1")
        block(f"{side}.mid.block_2", 512, 512)
        width = 128 if side == "encoder" else 512
        stage, blocks = ("down", 2) if side == "encoder" else ("up", 3)
        for level in range(5) if side == "encoder" else range(4, -1, -1):
            for i in range(blocks):
                block(f"{side}.{stage}.{level}.block.{i}", width, widths[level])
                width = widths[level]
                if level == 4:
                    attention(f"{side}.{stage}.{level}.attn.{i}")
            if side == "encoder" and level < 4:
                module(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
            if side == "decoder" and level > 0:
                module(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
        ends = {"encoder": [(128, 3), (256, 512)], "decoder": [(512, 256), (3, 128)]}[side]
        module(f"{side}.conv_in", *ends[0], 3, 3)
        module(f"{side}.norm_out", ends[1][1])
        module(f"{side}.conv_out", *ends[1], 3, 3)
    for name in ("quant_conv", "post_quant_conv"):
        module(name, 256, 256, 1, 1)
    assert shapes(taming_f16()) == expected


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
    with pytest.raises(ValueError, match=f"config is no configuration of a VQGAN: .*{message}"):
        pretrained.load(GUMBEL, flat)


def test_resampling_without_convolutions_is_said_and_computed() -> None:
    values = settings()
    flat = {**values.pop("ddconfig"), **values, "resamp_with_conv": False}
    config = published.read_settings(flat)
    assert config.resampling == "pool"
    assert published.read_settings(published.write_settings(config)) == config
    assert not [key for key in shapes(config) if "sample" in key]
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
    folder: Path, module: str, leaf: str, array: np.ndarray | None
) -> None:
    tree = read_msgpack(folder / "flax_model.msgpack")
    tree["encoder"][module].pop(leaf, None)
    if array is not None:
        tree["encoder"][module][leaf] = array
    write_msgpack(folder / "flax_model.msgpack", tree)
    with pytest.raises(ValueError, match=f"flax_model.msgpack .*encoder/{module}/{leaf}"):
        pretrained.load(folder)


def test_the_kind_of_lookup_decides_which_keys_there_must_be() -> None:
    with pytest.raises(ValueError, match="quantize.proj"):
        pretrained.load(GUMBEL, {**settings(), "gumbel": False})
    assert pretrained.load(GUMBEL, settings())[0].lookup == "classifier"


def test_the_other_spelling_of_the_codebook_is_read(checkpoint: Path) -> None:
    arrays = load_file(GUMBEL)
    arrays["quantize.embedding.weight"] = arrays.pop("quantize.embed.weight")
    save_file(arrays, checkpoint)
    assert equal(pretrained.load(checkpoint)[1], pretrained.load(GUMBEL)[1])


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


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
def test_cut_files_are_named(checkpoint: Path, folder: Path, share: float) -> None:
    torch_file = write_zip(checkpoint.with_suffix(".ckpt"), *state_dict(load_file(GUMBEL)))
    for path in (checkpoint, torch_file, folder / "flax_model.msgpack"):
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
def test_settings_files_that_are_none_are_named(checkpoint: Path, text: str) -> None:
    checkpoint.with_name("model.yaml").write_text(text)
    with pytest.raises(ValueError, match="model.yaml"):
        pretrained.load(checkpoint)


def test_a_flax_folder_goes_through_ours_back_to_the_same_bytes(tmp_path: Path) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert pretrained.convert(FLAX, ours) == "pastel"
    assert equal(pretrained.load(ours), pretrained.load(FLAX))
    assert pretrained.convert(ours, back) == "vqgan_jax"
    assert sorted(path.name for path in back.iterdir()) == ["config.json", "flax_model.msgpack"]
    for name in ("config.json", "flax_model.msgpack"):
        assert (back / name).read_bytes() == (FLAX / name).read_bytes()


def test_a_checkpoint_goes_through_ours_back_to_the_same_bytes(
    checkpoint: Path, tmp_path: Path
) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert pretrained.convert(checkpoint, ours) == "pastel"
    assert pretrained.convert(ours, back) == "taming"
    assert (back / taming.WEIGHTS_FILE).read_bytes() == checkpoint.read_bytes()
    assert equal(pretrained.load(back), pretrained.load(ours))


def test_half_precision_comes_back_as_half_precision(folder: Path, tmp_path: Path) -> None:
    tree = read_msgpack(folder / "flax_model.msgpack")
    halved = jax.tree.map(lambda leaf: leaf.astype(np.float16), tree)
    write_msgpack(folder / "flax_model.msgpack", {key: halved[key] for key in sorted(tree)[::-1]})
    pretrained.convert(folder, tmp_path / "ours")
    pretrained.convert(tmp_path / "ours", tmp_path / "back")
    expected = (folder / "flax_model.msgpack").read_bytes()
    assert (tmp_path / "back" / "flax_model.msgpack").read_bytes() == expected


def test_a_classifier_of_codes_is_not_trained_in_silence(tiny_vqgan: VQGANConfig) -> None:
    autoencoder = build(dataclasses.replace(tiny_vqgan, lookup="classifier"))
    with pytest.raises(ValueError, match="lookup classifier"):
        make_loss(autoencoder, LossConfig())


def test_pictures_are_encoded_with_a_folder_of_another_program() -> None:
    io = load_file(FLAX.with_name("vqgan_flax.io.safetensors"))
    encoder = open_encoder(FLAX)
    assert (encoder.image_size, encoder.codebook_size) == (32, 64)
    np.testing.assert_array_equal(encoder.encode(io["inputs/image"]), io["outputs/indices"])


def test_one_program_s_becomes_the_other_s(tmp_path: Path) -> None:
    torch, flax = tmp_path / "torch", tmp_path / "flax"
    pretrained.convert(FLAX, torch, to="taming")
    config = yaml.safe_load((torch / taming.CONFIG_FILE).read_text())["model"]
    assert config["target"] == "taming.models.vqgan.VQModel"
    found = load_file(torch / taming.WEIGHTS_FILE)["encoder.down.0.block.0.nin_shortcut.weight"]
    assert found.shape == (64, 32, 1, 1)
    pretrained.convert(torch, flax, to="vqgan_jax")
    expected = (FLAX / "flax_model.msgpack").read_bytes()
    assert (flax / "flax_model.msgpack").read_bytes() == expected
    values = json.loads((FLAX / "config.json").read_text())
    assert json.loads((flax / "config.json").read_text()).items() <= values.items()


def test_what_another_program_cannot_say_is_named(tmp_path: Path) -> None:
    for to in ("taming", "vqgan_jax"):
        with pytest.raises(ValueError, match="patch_size 4: taming-transformers has no word"):
            pretrained.convert(pretrained.SHIPPED, tmp_path / "out", to=to)
    with pytest.raises(ValueError, match="vqgan-jax has no GumbelVQ"):
        pretrained.convert(GUMBEL, tmp_path / "out", to="vqgan_jax")
    with pytest.raises(ValueError, match="name a format with --to"):
        pretrained.convert(pretrained.SHIPPED, tmp_path / "out")
    with pytest.raises(ValueError, match="no other settings"):
        pretrained.load(pretrained.SHIPPED, settings())


@pytest.mark.parametrize(
    "origin", [3, {}, {"format": "pickle", "config": {}, "arrays": "float32"}, {"format": "taming"}]
)
def test_a_damaged_origin_is_named(tmp_path: Path, origin: Any) -> None:
    pretrained.convert(FLAX, tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "origin": origin}))
    with pytest.raises(ValueError, match="config.json is no configuration of a VQGAN"):
        pretrained.load(tmp_path / "ours")


@pytest.mark.parametrize("source", [FLAX, GUMBEL])
def test_a_vqgan_that_is_no_longer_its_origin_s_is_not_written_as_it(
    source: Path, tmp_path: Path
) -> None:
    pretrained.convert(source, tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    values = json.loads(path.read_text())
    (side,) = values["attention_resolutions"]
    changes = {"image_size": 64, "attention_resolutions": [2 * side]}  # the same weights fit
    path.write_text(json.dumps({**values, **changes}))
    with pytest.raises(ValueError, match=r"image_size is 64, but 32 in origin.config"):
        pretrained.convert(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "vqgan.pretrained", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_converts_and_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    found = command(GUMBEL, tmp_path / "ours", "--ddconfig", GUMBEL.with_name("gumbel_res1.json"))
    assert (found.returncode, found.stdout) == (0, "")
    assert equal(pretrained.load(tmp_path / "ours"), pretrained.load(GUMBEL))
    found = command(tmp_path / "ours", tmp_path / "out", "--to=vqgan_jax")
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()

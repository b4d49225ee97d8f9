"""VQGANs of other programs give the same tokens and pictures here, and have the same keys."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from published import taming_layout
from tests.torch_files import state_dict, write_zip
from tests.vqgan.examples import F16, FLAX, GUMBEL, RES1, TORCH_PICKLE
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.config import VQGANConfig
from vqgan.encoder import open_encoder
from weights.msgpack import read_msgpack
from weights.torch_file import read_torch_file


def write_checkpoint(path: Path) -> Path:
    """Write the weights of FLAX with the keys of taming-transformers' VQModel, renamed here by
    hand."""
    arrays = {}
    for key, array in flatten_dict(read_msgpack(FLAX / "flax_model.msgpack"), sep="/").items():
        *parents, leaf = key.split("/")
        if (
            "mid" not in parents
        ):  # here block_1 is a name; elsewhere it is the second entry of a list
            parents = [re.sub(r"_(\d)$", r".\1", name) for name in parents]
        ending = "bias" if leaf == "bias" else "weight"
        turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        arrays[".".join([*parents, ending])] = np.ascontiguousarray(turned)
    tensors, storages = state_dict(arrays)
    return write_zip(path, {"epoch": 3, "state_dict": tensors}, storages)


@pytest.mark.parametrize("name", ["vqgan_jax", "VQModel.ckpt", "GumbelVQ"])
def test_tokens_and_pictures_are_those_of_the_software_it_comes_from(
    name: str, tmp_path: Path
) -> None:
    path, values, vectors = FLAX, None, FLAX.with_name("vqgan_flax.io.safetensors")
    if name == "GumbelVQ":
        path, vectors = GUMBEL, GUMBEL.with_name("gumbel_res1.io.safetensors")
    if name == "VQModel.ckpt":
        path = write_checkpoint(tmp_path / name)
        values = json.loads((FLAX / "config.json").read_text())
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
    """Key in taming-transformers → shape, for a layout."""
    return {leaf.keys[0]: leaf.shape for leaf in pretrained.plan_of("taming", config).values()}


def test_every_parameter_has_the_key_and_shape_that_torch_says() -> None:
    keys = json.loads(GUMBEL.with_name("gumbel_res1.json").read_text())["keys"]
    config, _ = pretrained.load(GUMBEL)
    assert shapes(config) == {key: tuple(shape) for key, shape in keys.items()}


def test_a_vqmodel_has_the_keys_and_shapes_that_torch_says(tmp_path: Path) -> None:
    """Compares with a .ckpt that torch wrote, without its numbers."""
    storages = {str(i): np.zeros(36864, np.float32) for i in range(185)}
    found = read_torch_file(write_zip(tmp_path / "x", TORCH_PICKLE.read_bytes(), storages))
    there = {key: array.shape for key, array in found.items() if not key.startswith("loss.")}
    assert shapes(taming_layout.read_settings(RES1)) == there


def test_the_published_f16_models_have_these_keys() -> None:
    """The keys of vqgan_imagenet_f16_16384, written from its layout: ch 128, ch_mult 1 1 2 2 4."""
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
    assert shapes(F16) == expected


def test_pictures_are_encoded_with_a_folder_of_another_program() -> None:
    io = load_file(FLAX.with_name("vqgan_flax.io.safetensors"))
    encoder = open_encoder(FLAX, most_devices=1)  # there are only three pictures
    assert (encoder.image_size, encoder.codebook_size) == (32, 64)
    np.testing.assert_array_equal(encoder.encode(io["inputs/image"]), io["outputs/indices"])

"""The layouts of DALL·E mini's folders: each variant is read, and written back byte for byte."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import pretrained, transformer
from published import dalle_mini
from tests.model import vectors
from tests.model.vectors import FOLDER, SCANNED, VARIANTS, package_layout, settings

of_each_variant = pytest.mark.parametrize("name", VARIANTS)


@of_each_variant
def test_a_folder_comes_back_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    folder = vectors.folder(name, tmp_path)
    assert pretrained.convert(folder, tmp_path / "ours") == "pastel"
    assert pretrained.convert(tmp_path / "ours", tmp_path / "back") == "dalle_mini"
    for file in ("config.json", "flax_model.msgpack"):
        assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()


OTHERS: dict[str, dict[str, Any]] = {
    "swinv2, odd layers in both stacks": {
        "ln_positions": "swinv2",
        "encoder_layers": 6,
        "decoder_layers": 13,
    },
    "swinv2 with rmsnorm, biases and head scale": {
        "ln_positions": "swinv2",
        "ln_type": "rmsnorm",
        "decoder_layers": 8,
        "use_bias": True,
        "use_head_scale": True,
    },
    "postln, unrolled": {"ln_positions": "postln", "use_scan": False},
    "postln, unrolled, rmsnorm": {
        "ln_positions": "postln",
        "use_scan": False,
        "ln_type": "rmsnorm",
    },
    "postln, unrolled, one layer": {
        "ln_positions": "postln",
        "use_scan": False,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
    "postln, unrolled, forced scales": {
        "ln_positions": "postln",
        "use_scan": False,
        "force_ln_scale": True,
    },
    "deepnet, scanned": {
        "ln_positions": "postln",
        "use_deepnet_scaling": True,
        "use_glu": False,
        "use_bias": True,
    },
    "head scale, scanned, other heads": {
        "use_head_scale": True,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 12,
    },
    "biases with GLU": {"use_bias": True, "use_scan": False},
    "relative positions, scanned": {
        "use_swin_position_embeddings": True,
        "encoder_attention_heads": 2,
        "image_length": 9,
    },
    "subln, unrolled, rmsnorm": {
        "ln_positions": "subln",
        "ln_type": "rmsnorm",
        "use_scan": False,
        "use_glu": False,
    },
    "cogview, forced scales": {"ln_positions": "cogview", "force_ln_scale": True},
    "preln, rmsnorm, no final norms": {
        "ln_positions": "preln",
        "ln_type": "rmsnorm",
        "use_final_ln_encoder": False,
        "use_final_ln_decoder": False,
    },
    "tied output, no square": {"tie_word_embeddings": True, "image_length": 10},
}
SMALL = {
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "encoder_vocab_size": 11,
    "image_vocab_size": 13,
    "image_length": 16,
    "max_text_length": 5,
}


def other_values(name: str) -> dict[str, Any]:
    default = vectors.dalle_mini(SCANNED).facts["config"]
    values = {**default, **SMALL, **OTHERS[name], "model_type": "dallebart"}
    return values | ({"use_scan": False} if values["ln_positions"] == "swinv2" else {})


def random_params(values: dict[str, Any]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = package_layout(values)
    return {key: draw.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


@of_each_variant
def test_the_layout_written_down_here_is_the_packages(name: str) -> None:
    found = vectors.dalle_mini(name)
    there = {key: array.shape for key, array in found.group("params").items()}
    assert package_layout(found.facts["config"]) == there


@pytest.mark.parametrize("name", OTHERS)
def test_other_layouts_are_read_and_go_back(name: str, tmp_path: Path) -> None:
    values = other_values(name)
    params = random_params(values)
    folder = vectors.write_folder(tmp_path / "theirs", values, params)
    config, ours = pretrained.load(folder)
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(
        jnp.shape, transformer.build(config).shapes
    )
    pretrained.convert(folder, tmp_path / "ours")
    again, same = pretrained.load(tmp_path / "ours")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, ours)
    pretrained.convert(tmp_path / "ours", tmp_path / "back")
    for file in ("config.json", "flax_model.msgpack"):
        assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("name", OTHERS)
def test_a_configuration_without_an_origin_says_the_same(name: str) -> None:
    values = other_values(name)
    config = dalle_mini.read_config(values, package_layout(values))
    written = dalle_mini.write_config(config)
    if written["use_scan"]:  # scans if possible; both are the same model
        values = {**values, "use_scan": True}
    assert {key: written.get(key) for key in values} == values
    assert dalle_mini.read_config(written, package_layout(written)) == config


def test_scanned_and_unrolled_layers_are_the_same_model(tmp_path: Path) -> None:
    found, (config, params) = vectors.dalle_mini(SCANNED), pretrained.load(FOLDER)
    apart: dict[str, np.ndarray] = {}
    for key, array in found.group("params").items():
        stem, layers, rest = key.partition("Layers/")
        parts = enumerate(array) if layers else []
        apart |= {f"{stem}Layer_{i}/{rest}": part for i, part in parts} or {key: array}
    values = {**settings(found), "use_scan": False}
    folder = vectors.write_folder(tmp_path / "unrolled", values, apart)
    again, same = pretrained.load(folder)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_an_unrolled_copy_of_a_scanned_postln_model_keeps_its_last_scale(tmp_path: Path) -> None:
    values = other_values("postln, unrolled")
    shapes = package_layout(values) | {
        "model/encoder/layers/FlaxBartEncoderLayer_1/LayerNorm_1/scale": (8,),
        "model/decoder/layers/FlaxBartDecoderLayer_2/LayerNorm_2/scale": (8,),
    }
    params = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    config, _ = pretrained.load(vectors.write_folder(tmp_path / "theirs", values, params))
    assert config.closing_norm_scale


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    values = other_values("biases with GLU")
    kinds = [np.dtype(kind) for kind in ("float16", jnp.bfloat16, "float32")]
    for few in (kinds[:1], kinds[1:2], kinds):
        params = {
            key: array.astype(few[i % len(few)])
            for i, (key, array) in enumerate(random_params(values).items())
        }
        here = tmp_path / str(len(few)) / few[0].name
        here.mkdir(parents=True)
        folder = vectors.write_folder(here / "theirs", values, params)
        assert pretrained.load(folder)[1]["head"]["kernel"].dtype == np.float32
        pretrained.convert(folder, here / "ours")
        pretrained.convert(here / "ours", here / "back")
        there, back = (path / "flax_model.msgpack" for path in (folder, here / "back"))
        assert there.read_bytes() == back.read_bytes()

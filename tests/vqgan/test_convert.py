"""VQGANs of other programs, converted to our folders and back to the same bytes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from published import taming
from tests.vqgan.examples import F16, FLAX, GUMBEL, ROOT, equal, settings
from vqgan import pretrained
from weights.msgpack import read_msgpack, write_msgpack


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


def test_half_precision_comes_back_as_half_precision(flax_folder: Path, tmp_path: Path) -> None:
    tree = read_msgpack(flax_folder / "flax_model.msgpack")
    halved = jax.tree.map(lambda leaf: leaf.astype(np.float16), tree)
    write_msgpack(
        flax_folder / "flax_model.msgpack", {key: halved[key] for key in sorted(tree)[::-1]}
    )
    pretrained.convert(flax_folder, tmp_path / "ours")
    pretrained.convert(tmp_path / "ours", tmp_path / "back")
    expected = (flax_folder / "flax_model.msgpack").read_bytes()
    assert (tmp_path / "back" / "flax_model.msgpack").read_bytes() == expected


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


def test_settings_that_the_other_format_lacks_are_named(tmp_path: Path) -> None:
    for to in ("taming", "vqgan_jax"):
        with pytest.raises(ValueError, match="patch_size 4: taming-transformers has no setting"):
            pretrained.convert(pretrained.SHIPPED, tmp_path / "out", to=to)
    with pytest.raises(ValueError, match="vqgan-jax has no GumbelVQ"):
        pretrained.convert(GUMBEL, tmp_path / "out", to="vqgan_jax")
    with pytest.raises(ValueError, match="name a format with --to"):
        pretrained.convert(pretrained.SHIPPED, tmp_path / "out")
    with pytest.raises(ValueError, match="other settings are not accepted"):
        pretrained.load(pretrained.SHIPPED, settings())


@pytest.mark.parametrize(
    "origin", [3, {}, {"format": "pickle", "config": {}, "arrays": "float32"}, {"format": "taming"}]
)
def test_a_damaged_origin_is_named(tmp_path: Path, origin: Any) -> None:
    pretrained.convert(FLAX, tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "origin": origin}))
    with pytest.raises(ValueError, match="config.json is not a configuration of a VQGAN"):
        pretrained.load(tmp_path / "ours")


@pytest.mark.parametrize("source", [FLAX, GUMBEL])
def test_a_vqgan_that_is_no_longer_its_origin_s_is_not_written_as_it(
    source: Path, tmp_path: Path
) -> None:
    pretrained.convert(source, tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    values = json.loads(path.read_text())
    (side,) = values["attention_resolutions"]
    changes = {
        "image_size": 64,
        "attention_resolutions": [2 * side],
    }  # the weights have the same shapes
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


def test_the_encoder_s_tried_codes_change_with_the_same_weights(tmp_path: Path) -> None:
    pretrained.convert(FLAX, tmp_path / "ours", tried_codes=3)
    config, params = pretrained.load(tmp_path / "ours")
    before = pretrained.load(FLAX)
    assert config == dataclasses.replace(before[0], tried_codes=3)
    assert equal((before[0], params), before)
    with pytest.raises(
        ValueError, match="tried_codes 3: taming-transformers has no setting for it"
    ):
        pretrained.convert(tmp_path / "ours", tmp_path / "back", "taming")


def test_attention_stays_in_its_layers_at_another_size() -> None:
    config = F16
    larger = pretrained.resize(config, 512)
    assert larger.attention_resolutions == (32,)
    assert pretrained.plan_of("taming", larger) == pretrained.plan_of("taming", config)
    with pytest.raises(ValueError, match=r"does not fit attention at \(16,\) .*try 512"):
        pretrained.resize(config, 264)
    with pytest.raises(ValueError, match="not a multiple of 16"):
        pretrained.resize(dataclasses.replace(config, attention_resolutions=()), 264)

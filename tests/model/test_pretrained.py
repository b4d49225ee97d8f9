"""Folders of models: ours are read as written, others' are converted, damage is named."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from common.json_files import read_json
from model import pretrained, transformer
from model.config import ModelConfig, SamplingConfig
from tests.model.vectors import BART, FOLDER
from weights.msgpack import read_msgpack, write_msgpack

SAMPLING = SamplingConfig(guidance_scale=3.0, top_k=5)
ROOT = Path(__file__).parent.parent.parent
KERNEL = "model/encoder/layers/FlaxBartEncoderLayers/GLU_0/Dense_1/kernel"


@pytest.fixture
def ours(tmp_path: Path, tiny: ModelConfig) -> Path:
    params = transformer.build(tiny).init(jax.random.key(0))
    pretrained.save(tmp_path / "ours", tiny, SAMPLING, params)
    return tmp_path / "ours"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "theirs"))


def test_a_saved_model_is_loaded(ours: Path, tiny: ModelConfig) -> None:
    config, params = pretrained.load(ours)
    assert config == tiny
    assert pretrained.read(ours).sampling == SAMPLING
    there = transformer.build(tiny).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, there)


def test_another_programs_folder_has_a_way_to_draw_too() -> None:
    assert pretrained.read(FOLDER).sampling.guidance_scale == 10
    assert pretrained.read(BART).sampling.temperature == 0


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_weights_are_cast_when_asked(ours: Path, dtype: Any) -> None:
    for folder in (ours, FOLDER, BART):
        _, params = pretrained.load(folder, dtype)
        _, exact = pretrained.load(folder)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(dtype)), params, exact)


def test_a_model_of_ours_goes_to_dalle_mini_and_back(tmp_path: Path, tiny: ModelConfig) -> None:
    config = dataclasses.replace(tiny, decoder_start_token_id=tiny.image_vocab_size - 1)
    params = transformer.build(config).init(jax.random.key(0))
    pretrained.save(tmp_path / "ours", config, SAMPLING, params)
    with pytest.raises(ValueError, match="name a format with --to"):
        pretrained.convert(tmp_path / "ours", tmp_path / "theirs")
    pretrained.convert(tmp_path / "ours", tmp_path / "theirs", "dalle_mini")
    again, same = pretrained.load(tmp_path / "theirs")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_one_format_becomes_another_and_what_it_cannot_say_is_named(
    ours: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="decoder_start_token_id -1 stands behind the 20 classes"):
        pretrained.convert(ours, tmp_path / "out", "dalle_mini")
    with pytest.raises(ValueError, match="model.norm rmsnorm: a BART configuration"):
        pretrained.convert(ours, tmp_path / "out", "bart")
    with pytest.raises(ValueError, match="model.placement normformer: a BART configuration"):
        pretrained.convert(FOLDER, tmp_path / "out", "bart")
    with pytest.raises(ValueError, match="position_offset 2: a dalle-mini configuration"):
        pretrained.convert(BART, tmp_path / "out", "dalle_mini")


def test_half_precision_can_be_asked_for(tmp_path: Path) -> None:
    pretrained.convert(FOLDER, tmp_path / "ours", dtype="float16")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    pretrained.convert(FOLDER, tmp_path / "theirs", "dalle_mini", "float16")
    flat = flatten_dict(read_msgpack(tmp_path / "theirs" / "flax_model.msgpack"))
    assert {array.dtype for array in flat.values()} == {np.dtype(np.float16)}


def test_tokenizer_and_vqgan_come_along(theirs: Path, tmp_path: Path) -> None:
    (theirs / "vocab.json").write_text("{}")
    (theirs / "merges.txt").write_text("")
    (theirs / "README.md").write_text("not a tokenizer's")
    (theirs / "vqgan").mkdir()
    (theirs / "vqgan" / "config.json").write_text("{}")
    pretrained.convert(theirs, tmp_path / "ours")
    pretrained.convert(tmp_path / "ours", tmp_path / "back")
    common = {"config.json", "vqgan/config.json"}
    assert files_in(tmp_path / "ours") == common | {
        "model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }
    assert files_in(tmp_path / "back") == common | {
        "flax_model.msgpack",
        "vocab.json",
        "merges.txt",
    }


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_command_converts_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model.pretrained", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    ours = tmp_path / "ours"
    done = run(str(FOLDER), str(ours))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == f"{ours}: {FOLDER} as pastel"
    wrong = run(str(ours), str(tmp_path / "bart"), "--to", "bart")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("python -m model.pretrained: model.placement normformer")
    assert not (tmp_path / "bart").exists()
    taken = run(str(FOLDER), str(ours))
    assert taken.returncode == 2
    assert "exists and holds something else" in taken.stderr


def with_weights(theirs: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    tree = read_msgpack(theirs / "flax_model.msgpack")
    change(tree)
    write_msgpack(theirs / "flax_model.msgpack", tree)
    return theirs


def dense(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["model"]["encoder"]["layers"]["FlaxBartEncoderLayers"]["GLU_0"]["Dense_1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: dense(t).clear(), rf"{KERNEL}: None instead of \(2, 32, 48\)"),
        (
            lambda t: dense(t).update(kernel=np.zeros((2, 32, 47), np.float32)),
            rf"{KERNEL}: \(2, 32, 47\) instead of \(2, 32, 48\)",
        ),
        (
            lambda t: dense(t).update(bias=np.zeros((2, 48), np.float32)),
            r"Dense_1/bias: \(2, 48\) instead of None",
        ),
        (
            lambda t: dense(t).update(kernel=np.zeros((2, 32, 48), np.int32)),
            f"{KERNEL} as int32",
        ),
    ],
)
def test_arrays_that_are_not_the_models_are_named_by_their_own_key(
    change: Callable[[dict[str, Any]], None], message: str, theirs: Path
) -> None:
    with pytest.raises(ValueError, match=f"flax_model.msgpack .*{message}") as raised:
        pretrained.load(with_weights(theirs, change))
    assert "\n" not in str(raised.value)


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "content", ["pickle", "cut", "empty", "header of 2^40 bytes", "text", "directory"]
)
def test_a_file_that_is_not_what_it_claims_is_named(
    content: str, ours: Path, theirs: Path, tmp_path: Path
) -> None:
    shutil.copytree(BART, tmp_path / "bart")
    for folder, name in (
        (ours, "model.safetensors"),
        (theirs, "flax_model.msgpack"),
        (tmp_path / "bart", "model.safetensors"),
    ):
        path = folder / name
        whole = path.read_bytes()
        path.unlink()
        if content == "directory":
            path.mkdir()
        else:
            path.write_bytes(
                {
                    "pickle": pickle.dumps(Bomb(tmp_path / "bang")),
                    "cut": whole[:-100],
                    "empty": b"",
                    "header of 2^40 bytes": (1 << 40).to_bytes(8, "little") + whole[8:],
                    "text": b"version https://git-lfs.github.com/spec/v1\n",
                }[content]
            )
        with pytest.raises(ValueError, match=name) as raised:
            pretrained.load(folder)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json cannot be read"),
        ("[]", "config.json holds a list, not a JSON object"),
        ("[" * 100_000, "config.json cannot be read"),
        ("{}", "neither 'model'"),
        ('{"model_type": "t5"}', "but 't5'"),
        ('{"model": {"dim": "8"}, "sampling": {}}', "configuration .*dim must be a whole number"),
        ('{"model": {"use_bias": "no"}, "sampling": {}}', "use_bias must be true or false"),
        ('{"model": {"encoder_depth": 1000000000}, "sampling": {}}', "encoder_depth must be in"),
        ('{"model": 5, "sampling": {}}', "neither 'model'"),
        ('{"model": {}, "sampling": 5}', "config.json is not a configuration"),
        ('{"model": {"colour": 8}, "sampling": {}}', "config.json is not a configuration .*colour"),
        ('{"model": {}}', "config.json is not a configuration"),
        ('{"model": {}, "sampling": {}, "origin": 5}', "config.json is not a configuration"),
    ],
)
def test_a_configuration_of_another_form_is_refused(text: str, message: str, ours: Path) -> None:
    (ours / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        pretrained.load(ours)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (5, "origin must hold arrays, config, format, scanned, not 5"),
        ({"colour": 1}, "origin must hold"),
        ({"format": "x"}, "origin.format 'x' is not one of dalle_mini, bart"),
        ({"format": ["bart"]}, "format must be text"),
        ({"arrays": ["float32"]}, r"origin.arrays must be of .*, not \['float32'\]"),
        ({"arrays": 5}, "origin.arrays must be of .*, not 5"),
        ({"arrays": {"a": "object"}}, "origin.arrays must be of .*, not 'object'"),
        ({"arrays": {"a": []}}, r"origin.arrays must be of .*, not \[\]"),
        ({"config": [1]}, r"origin.config must hold settings, not \[1\]"),
        ({"scanned": "yes"}, "scanned must be true or false, not 'yes'"),
    ],
)
def test_a_damaged_origin_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    pretrained.convert(FOLDER, tmp_path / "ours")
    origin = read_json(tmp_path / "ours" / "config.json")["origin"]
    edit(tmp_path / "ours", origin=origin | damage if isinstance(damage, dict) else damage)
    with pytest.raises(
        ValueError, match=f"config.json is not a configuration .*{message}"
    ) as raised:
        pretrained.load(tmp_path / "ours")
    assert "\n" not in str(raised.value)


def edit(folder: Path, **changes: Any) -> None:
    """Change settings in a folder's config.json."""
    values = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(values | changes))


@pytest.mark.parametrize(
    "changes", [{"activation": "gelu_tanh"}, {"scores": "cosine"}, {"scale_embedding": True}]
)
def test_a_model_that_is_no_longer_its_origin_s_is_not_written_as_it(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    pretrained.convert(FOLDER, ours)
    values = read_json(ours / "config.json")
    edit(ours, model=values["model"] | changes)
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .* in origin.config"):
        pretrained.convert(ours, back)
    assert not back.exists()
    edit(ours, origin=None)
    pretrained.convert(ours, back, "dalle_mini")
    assert pretrained.load(back)[0] == pretrained.load(ours)[0]
    edit(ours, model=values["model"] | {"dropout": 0.5, "remat": "dots"}, origin=values["origin"])
    pretrained.convert(ours, tmp_path / "same")
    there = (FOLDER / "config.json").read_bytes()
    assert (tmp_path / "same" / "config.json").read_bytes() == there


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"format": "bart"}, "norm"),
        ({"config": {}}, "origin.config"),
        ({"config": {"d_model": "32"}}, "d_model must be a whole number"),
        ({"scanned": False, "arrays": {"a": "float32"}}, "origin.arrays in config.json .*first a"),
    ],
)
def test_an_origin_of_another_model_is_not_written(
    damage: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pretrained.convert(FOLDER, tmp_path / "ours")
    edit(tmp_path / "ours", origin=read_json(tmp_path / "ours" / "config.json")["origin"] | damage)
    with pytest.raises(ValueError, match=message) as raised:
        pretrained.convert(tmp_path / "ours", tmp_path / "back")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "back").exists()


def test_a_pickled_bart_is_never_opened(tmp_path: Path) -> None:
    shutil.copy(BART / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle"):
        pretrained.load(tmp_path)
    assert not (tmp_path / "bang").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere/config.json cannot be read"):
        pretrained.load(tmp_path / "nowhere")

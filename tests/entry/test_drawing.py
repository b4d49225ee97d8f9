"""Checkpoints are found by any of their names, and always draw the same pictures."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from data.records import open_records
from drawing.drawer import Drawer, make_drawer, picture_seed
from drawing.memory import explain_out_of_memory, within_memory
from drawing.opening import open_checkpoint
from generate import GenerateConfig
from model import transformer
from model.config import SamplingConfig
from release import ReleaseConfig, release
from training.devices.devices import Devices
from vqgan import pretrained as pretrained_vqgan
from weights.checksums import SUMS_FILE


@pytest.fixture(scope="module")
def drawer(run_folder: Path) -> Drawer:
    checkpoint = open_checkpoint(run_folder)
    return make_drawer(transformer.build(checkpoint.model), checkpoint.sampling, run_folder, 4)


def test_a_checkpoint_is_a_run_a_step_or_a_release(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    release(ReleaseConfig(str(run_folder), str(out), "float32"))
    found = [open_checkpoint(p) for p in (run_folder, run_folder / "checkpoints" / "0", out)]
    assert [checkpoint.step for checkpoint in found] == [0, 0, None]
    for checkpoint in found[1:]:
        assert (checkpoint.model, checkpoint.sampling) == (found[0].model, found[0].sampling)
        jax.tree.map(np.testing.assert_array_equal, checkpoint.params, found[0].params)
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "tokenizer",
        "vqgan",
    ]


def test_a_release_does_not_overwrite(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        release(ReleaseConfig(str(run_folder), str(tmp_path)))


def test_a_run_named_with_digits_is_a_run(run_folder: Path, tmp_path: Path) -> None:
    for name in ("7", "checkpoints/7"):
        run = tmp_path / name
        run.parent.mkdir(exist_ok=True)
        run.symlink_to(run_folder)
        step = run / "checkpoints" / "0"
        assert (open_checkpoint(step).folder, open_checkpoint(step).step) == (run, 0)
    assert open_checkpoint(tmp_path / "7").folder == tmp_path / "7"


def test_a_checkpoint_knows_what_its_records_held(run_folder: Path, records_folder: Path) -> None:
    assert open_checkpoint(run_folder).records_digest == open_records(records_folder).digest


@pytest.mark.parametrize("name", ["nothing", "", "checkpoints/7"])
def test_a_path_without_a_checkpoint_is_refused(
    run_folder: Path, tmp_path: Path, name: str
) -> None:
    path = run_folder / name if name.startswith("checkpoints") else tmp_path / name
    with pytest.raises(ValueError, match="no checkpoint at|holds no 7"):
        open_checkpoint(path)


def test_damaged_releases_are_refused(run_folder: Path, tmp_path: Path) -> None:
    release(ReleaseConfig(str(run_folder), str(tmp_path / "r")))
    (tmp_path / "r" / SUMS_FILE).unlink()  # else the checksums would be refused first
    weights = tmp_path / "r" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"r/model.safetensors cannot be read"):
        open_checkpoint(tmp_path / "r")
    (tmp_path / "r" / "config.json").write_text('{"model": {"size": 3}}')
    with pytest.raises(ValueError, match="is not a configuration"):
        open_checkpoint(tmp_path / "r")


def test_a_picture_does_not_depend_on_the_others(run_folder: Path, drawer: Drawer) -> None:
    params = open_checkpoint(run_folder).params
    prompts = [f"{tone} bar 3" for tone in ("light", "tan", "dark", "brown", "pale", "")]
    seeds = [picture_seed(0, prompt, 1) for prompt in prompts]
    drawn = drawer.draw(params, prompts, seeds)
    assert drawn.shape == (6, 8, 8, 3)
    assert drawn.dtype == np.uint8
    alone = [drawer.draw(params, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    np.testing.assert_array_equal(drawn, alone)
    assert len({picture.tobytes() for picture in drawn}) > 1


def test_weights_that_give_nan_draw_nothing(run_folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(run_folder)
    model = transformer.build(checkpoint.model)
    broken = make_drawer(model, checkpoint.sampling, run_folder, 1)
    nan = jax.tree.map(lambda leaf: leaf * np.nan, checkpoint.params)
    with pytest.raises(ValueError, match=r"output is NaN or infinite, first for the prompt 'tan'"):
        broken.draw(nan, ["tan"], [0])
    shutil.copytree(run_folder / "vqgan", tmp_path / "vqgan")
    (tmp_path / "tokenizer").symlink_to(run_folder / "tokenizer")
    config, params = pretrained_vqgan.load(tmp_path / "vqgan")
    huge = jax.tree.map(lambda leaf: np.full_like(leaf, 1e38), params)
    pretrained_vqgan.save(tmp_path / "vqgan", config, huge, "float32")
    broken = make_drawer(model, checkpoint.sampling, tmp_path, 1)
    with pytest.raises(ValueError, match="the VQGAN's output is NaN or infinite"):
        broken.draw(checkpoint.params, ["tan"], [0])


def test_more_pictures_at_a_time_than_memory_holds_are_refused_with_what_fits() -> None:
    devices = Devices((jax.devices()[0],))
    squares = jax.jit(lambda scale, x: (scale * x @ x.T).astype(np.int8))
    rows = np.zeros((64, 3), np.float32)  # 64 × 64 products, kept as 4,096 bytes
    result = within_memory(squares, devices, 64)(np.float32(1), rows)
    np.testing.assert_array_equal(result, np.zeros((64, 64), np.int8))
    with pytest.raises(ValueError, match=r"rows_per_call 64: .* take --rows_per_call=\d+ or fewer"):
        within_memory(squares, devices, 64, room=lambda _: 4_000)(np.float32(1), rows)
    with pytest.raises(ValueError, match="compute_dtype=bfloat16, or a device with more"):
        within_memory(squares, devices, 1, room=lambda _: 4_000)(np.float32(1), rows)


def test_a_device_without_memory_left_is_reported_with_what_to_try() -> None:
    def fail(message: str) -> None:
        with explain_out_of_memory(48):
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(ValueError, match="48 picture.* take --rows_per_call=16 or fewer"):
        fail("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    with pytest.raises(jax.errors.JaxRuntimeError):
        fail("INTERNAL: something else")


@pytest.mark.parametrize("rows", [0, 65_537, 10**12])
def test_absurd_numbers_of_rows_are_refused(run_folder: Path, rows: int) -> None:
    checkpoint = open_checkpoint(run_folder)
    with pytest.raises(ValueError, match="must be at least 1 picture, at most 65,536"):
        make_drawer(transformer.build(checkpoint.model), checkpoint.sampling, run_folder, rows)


def test_seeds_depend_on_seed_prompt_and_number_and_nothing_else() -> None:
    seeds = {picture_seed(s, p, n) for s in range(3) for p in ("a", "b", "") for n in range(3)}
    assert len(seeds) == 27
    assert picture_seed(1, "  a\nb ", 0) == picture_seed(1, "a b", 0)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert picture_seed(0, "\ud800", 0) == picture_seed(0, "\ufffd", 0)


def test_a_tokenizer_of_another_model_is_refused(run_folder: Path) -> None:
    checkpoint = open_checkpoint(run_folder)
    model = transformer.build(dataclasses.replace(checkpoint.model, text_vocab_size=200))
    with pytest.raises(
        ValueError, match="tokenizer .* has 285 tokens, more than the model's text_vocab_size 200"
    ):
        make_drawer(model, checkpoint.sampling, run_folder)


def test_given_flags_stand_in_for_the_checkpoints_settings() -> None:
    flags = GenerateConfig("x", temperature=0.0, top_k=5)
    sampling = flags.applied_to(SamplingConfig(2.0, 0.5, 0, 0.9))
    assert sampling == SamplingConfig(2.0, 0.0, 5, 0.9)

"""Fine-tuning with adapters through train.py."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import train
from command_line.parser import parse_config
from config import Config
from drawing.drawer import make_drawer
from drawing.opening import open_checkpoint
from model import pretrained, transformer
from model.transformer import Params
from optim.adapters import split
from recipe import start_from
from release import ReleaseConfig, release
from starting import adapted
from tests.entry.kills import killed
from tests.entry.test_train import WITH_GRID, losses, tiny, weights
from tests.tiny import first_params
from training.saved.runs import copy_once

RANK = ("--optim.adapters.rank=4", "--optim.learning_rate=0.05")
SOME = ("--optim.adapters.kernels", "*cross_attention/*", "*mlp/up/*", "--optim.ema_decay=0.9")
HAS_OWN = re.compile(r"cross_attention.*kernel|mlp'\]\['up'\]\['kernel")
"""Settings of all runs here, which share their program, and the names of kernels with adapters."""


def tune(records: Path, run: Path, start: Path, *more: str) -> None:
    train.main(parse_config(Config, tiny(records, run, f"--init_from={start}", *RANK, *more)))


def base_of(run: Path) -> dict[str, np.ndarray]:
    """The weights of a run or of a release, by name."""
    return by_name(open_checkpoint(run).params)


def by_name(params: Params) -> dict[str, np.ndarray]:
    found, _ = jax.tree.flatten_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def test_only_what_has_adapters_moves_and_a_release_is_what_the_run_draws(
    records_folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    tune(records_folder, tmp_path / "run", run_folder, *SOME, WITH_GRID)
    before, after = base_of(run_folder), base_of(tmp_path / "run")
    assert before.keys() == after.keys()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if HAS_OWN.search(name)}
    assert any((tmp_path / "run" / "grids").iterdir())
    release(ReleaseConfig(str(tmp_path / "run"), str(tmp_path / "release"), dtype="float32"))
    stored = load_file(tmp_path / "release" / "model.safetensors")
    assert len(stored) == len(before)
    pictures = []
    for folder in (tmp_path / "run", tmp_path / "release"):
        found = open_checkpoint(folder)
        drawer = make_drawer(transformer.build(found.model), found.sampling, folder, 2)
        pictures.append(drawer.draw(found.params, ["tan bar 1", "dark bar 2"], [1, 2]))
    np.testing.assert_array_equal(pictures[0], pictures[1])


@pytest.mark.slow
def test_stopped_and_resumed_equals_straight_through(
    records_folder: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(records_folder, tmp_path / "straight", run_folder)
    with killed(monkeypatch):
        tune(records_folder, tmp_path / "resumed", run_folder)
    tune(records_folder, tmp_path / "resumed", run_folder)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    one = weights(tmp_path / "straight", tmp_path / "a")
    other = weights(tmp_path / "resumed", tmp_path / "b")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_they_start_from_a_release_and_a_folder_of_dalle_mini(
    records_folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    """A run of adapters can also start from what a run of adapters made."""
    start, own, mini = (tmp_path / name for name in ("start", "own", "mini"))
    found = open_checkpoint(run_folder)
    model = replace(found.model, decoder_start_token_id=39)  # theirs is one of the classes
    pretrained.save(own, model, found.sampling, first_params(model, seed=1))
    copy_once(records_folder / "tokenizer", own / "tokenizer")
    pretrained.convert(own, mini, "dalle_mini")
    words = tiny(records_folder, tmp_path / "none", f"--init_from={own}", *RANK, *SOME)
    config = parse_config(Config, words)
    shapes = adapted.build(config.model, config.optim.adapters).shapes
    fresh = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
    begun, other = (split(start_from(config, str(source), fresh)[0])[0] for source in (own, mini))
    jax.tree.map(np.testing.assert_array_equal, begun, other)
    tune(records_folder, tmp_path / "from_mini", mini, *SOME, "--training.steps=2")
    tune(records_folder, start, tmp_path / "from_mini", *SOME, "--training.steps=1")
    once, twice = base_of(tmp_path / "from_mini"), base_of(start)
    for before, after in ((by_name(begun), once), (once, twice)):
        moved = {name for name in after if not np.array_equal(after[name], before[name])}
        moved.discard("['image_embedding']['tokens']")  # where theirs has no row, ours is random
        assert moved == {name for name in after if HAS_OWN.search(name)}


def test_without_weights_to_start_from_they_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name them with --init_from"):
        parse_config(Config, [*RANK, f"--output_dir={tmp_path}"])

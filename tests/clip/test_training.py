"""python -m clip.train learns which caption belongs to which picture; the result ranks pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip import towers, weights
from clip.contrast import contrast
from clip.recipe import ClipRunConfig, make_recipe, reconstruct
from command_line.parser import parse_config
from config import from_yaml
from data.batches import open_batches
from data.records import open_records
from drawing.ranking import open_ranker
from training.devices.batching import make_plan
from training.devices.devices import find_devices
from training.session import train

FLAGS = (
    "--training.steps=80 --training.batch_size=16 --training.eval_every=0 "
    "--optim.learning_rate=3e-3 --optim.warmup_steps=5 --model.dim=32 --model.depth=1 "
    "--model.num_heads=2 --model.mlp_dim=64 --model.feature_dim=16 --model.patch_size=4 "
    "--parallel.devices=1 --checkpoint.every=0 --views.shift=0 --views.zoom=1 --views.colour=0"
)


@pytest.fixture(scope="module")
def run_of_clip(records_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "run"
    places = [f"--data.records={records_folder}", f"--output_dir={folder}"]
    train(parse_config(ClipRunConfig, [*FLAGS.split(), *places]), make_recipe, from_yaml)
    return folder


def test_it_learns_and_ranks_pictures_of_its_records(
    run_of_clip: Path, records_folder: Path
) -> None:
    rows = [json.loads(line) for line in (run_of_clip / "metrics.jsonl").read_text().splitlines()]
    learned = [row["train/right"] for row in rows if "train/right" in row]
    assert np.mean(learned[-10:]) > 2 * np.mean(learned[:10])
    assert rows[-1]["eval/tone/chance"] < 0.2
    assert {"eval/tone/loss", "eval/tone/right"} <= rows[-1].keys()

    records = open_records(records_folder)
    ranker = open_ranker(run_of_clip)
    chosen = records.rows("train")
    captions = [records.examples[i]["caption"] for i in chosen]
    pictures = reconstruct(records)[chosen]
    own = ranker.score(captions, pictures)
    others = ranker.score(captions[1:] + captions[:1], pictures)
    assert (own > others).mean() >= 0.75
    assert own.max() <= 100.1


def test_written_towers_are_read_back(run_of_clip: Path, tmp_path: Path) -> None:
    found = towers.load(run_of_clip / "clip")
    assert not found.config.has_start
    assert found.config.end_id == 1
    weights.write(tmp_path, found.config, found.params)
    again = towers.load(tmp_path)
    assert again.config == found.config
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


def test_an_end_token_of_number_two_is_meant(run_of_clip: Path, tmp_path: Path) -> None:
    """In published configurations the 2 is a mistake; here it is right."""
    found = towers.load(run_of_clip / "clip")
    weights.write(tmp_path, replace(found.config, end_id=2, has_start=True), found.params)
    read = weights.read_config(tmp_path)
    assert (read.end_id, read.has_start) == (2, True)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--training.compute_dtype=bfloat16", "--training.compute_dtype=float32"),
        ("--optim.adapters.rank=2", "adapters are for train.py"),
    ],
)
def test_what_only_the_transformer_has_is_refused(flag: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_config(ClipRunConfig, [flag])


@pytest.mark.parametrize(
    "flags",
    [
        ("--training.accumulation_steps=4", "--parallel.devices=1"),
        ("--training.micro_batch_size=1", "--parallel.devices=2"),
        ("--parallel.devices=4",),
        ("--training.micro_batch_size=auto", "--parallel.devices=4"),
    ],
)
def test_a_picture_is_compared_with_more_than_its_own_caption(flags: tuple[str, ...]) -> None:
    small = parse_config(ClipRunConfig, ["--training.batch_size=4", "--data.records=none", *flags])
    with pytest.raises(ValueError, match="batch_size 4 on . device.*own caption only"):
        make_recipe(small)
    is_one = small.training.micro_batch_size == 1
    two: dict[str, Any] = {"micro_batch_size": 2} if is_one else {"batch_size": 8}
    enough = replace(small.training, **two)
    with pytest.raises(ValueError, match="no token records"):
        make_recipe(replace(small, training=enough))


def test_records_with_views_are_read_as_their_plain_pictures(
    records_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(records_folder)
    viewed = replace(records, view_tokens=np.repeat(np.asarray(records.image_tokens), 3, axis=0))
    pictures = np.broadcast_to(
        np.arange(len(records))[:, None, None, None], (len(records), 8, 8, 3)
    )
    monkeypatch.setattr("clip.recipe.open_whole", lambda folder: viewed)
    monkeypatch.setattr("clip.recipe.reconstruct", lambda records: pictures)
    config = parse_config(ClipRunConfig, [*FLAGS.split(), f"--data.records={records_folder}"])
    recipe = make_recipe(config)
    batch = recipe.open_batches(make_plan(config.training), find_devices(config.parallel))(0)
    shown = open_batches(records, "train", 16, config.seed).examples(np.arange(16))
    np.testing.assert_array_equal(batch["pixels"][:, 0, 0, 0], shown)


def test_equal_captions_are_right_for_each_other() -> None:
    images = jnp.eye(4)
    tokens = jnp.array([[5, 1], [5, 1], [6, 1], [7, 1]])
    told_apart = contrast(images, images, jnp.log(100.0), tokens)
    np.testing.assert_allclose(told_apart.right, 1)
    np.testing.assert_allclose(told_apart.chance, 6 / 16)
    swapped = contrast(images, images[jnp.array([1, 0, 2, 3])], jnp.log(100.0), tokens)
    np.testing.assert_allclose(swapped.loss, told_apart.loss, rtol=1e-6)
    wrong = contrast(images, images[jnp.array([2, 1, 0, 3])], jnp.log(100.0), tokens)
    np.testing.assert_allclose(wrong.right, 0.5)
    np.testing.assert_allclose(contrast(images, images, jnp.log(1e6), tokens).scale, 100, rtol=1e-5)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.patch_size=3", "model.patch_size 3 does not divide the records' 8 pixels"),
        ("--model.num_heads=3", "model.dim 32 is not a multiple of model.num_heads 3; try dim 30"),
    ],
)
def test_sizes_that_do_not_fit_are_named(flag: str, message: str, records_folder: Path) -> None:
    words = [w for w in FLAGS.split() if not w.startswith(flag.partition("=")[0])]
    with pytest.raises(ValueError, match=message):
        make_recipe(parse_config(ClipRunConfig, [*words, flag, f"--data.records={records_folder}"]))

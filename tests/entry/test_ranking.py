"""Ranking by CLIP: scores depend only on picture and prompt, and the tokenizer must fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from drawing.ranking import Ranker, best_first, describe_scores, open_ranker, scored
from tests.entry.clip_folders import END, TINY, write_clip, write_tokenizer

PROMPTS = ["a red heart", "", "blue cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Ranker:
    return open_ranker(folder, batch_size=4)


@pytest.fixture(scope="module")
def pictures() -> UInt8[np.ndarray, "p k y x 3"]:
    """Four smooth pictures for each prompt, smaller than CLIP's input."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 2, 2, 3), np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


def scores(
    ranker: Ranker, prompts: list[str], pictures: UInt8[np.ndarray, "p k y x 3"]
) -> Float32[np.ndarray, "p k"]:
    """The scores of k pictures for each prompt."""
    repeated = [prompt for prompt in prompts for _ in pictures[0]]
    flat = pictures.reshape(-1, *pictures.shape[2:])
    return ranker.score(repeated, flat).reshape(pictures.shape[:2])


def test_scores_are_clips_logits(ranker: Ranker, pictures: UInt8[np.ndarray, "p k y x 3"]) -> None:
    found = scores(ranker, PROMPTS, pictures)
    tokens, mask, _ = ranker.tokenizer.encode(PROMPTS, 12)
    assert tokens[1].tolist() == [0, *[59] * 11]
    for i, of_prompt in enumerate(pictures):
        pixels = of_prompt.astype(np.float32) / 127.5 - 1
        images, texts = ranker.clip.image_features(pixels), ranker.clip.text_features(tokens, mask)
        logits = ranker.clip.scale * np.asarray(images) @ np.asarray(texts).T
        np.testing.assert_allclose(found[i], logits[:, i], rtol=0, atol=2e-5)


def test_neighbours_and_batch_size_change_no_score(
    ranker: Ranker, pictures: UInt8[np.ndarray, "p k y x 3"]
) -> None:
    found = scores(ranker, PROMPTS, pictures)
    turned = scores(ranker, PROMPTS[::-1], pictures[::-1, ::-1])[::-1, ::-1]
    np.testing.assert_array_equal(turned, found)
    np.testing.assert_array_equal(scores(ranker, PROMPTS[2:], pictures[2:, :1]), found[2:, :1])
    for batch_size in (1, 5):
        other = scores(Ranker(ranker.clip, ranker.tokenizer, batch_size), PROMPTS, pictures)
        np.testing.assert_allclose(other, found, rtol=0, atol=2e-5)
        np.testing.assert_array_equal(other.argsort(axis=1), found.argsort(axis=1))


def test_pictures_are_scored_as_they_come(
    ranker: Ranker, pictures: UInt8[np.ndarray, "p k y x 3"]
) -> None:
    flat = pictures.reshape(-1, *pictures.shape[2:])
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    drawn = [flat[:3], flat[3:4], flat[4:]]
    came = list(scored(ranker, prompts, iter(drawn)))
    assert all(type(score) is float for _, score in came)  # as JSON has them
    np.testing.assert_array_equal(np.stack([picture for picture, _ in came]), flat)
    found = np.array([score for _, score in came], np.float32).reshape(3, 4)
    np.testing.assert_array_equal(found, scores(ranker, PROMPTS, pictures))
    assert [score for _, score in scored(None, prompts, iter(drawn))] == [None] * 12


def test_the_best_picture_comes_first(pictures: UInt8[np.ndarray, "p k y x 3"]) -> None:
    table = np.array([[1, 3, 2, 3], [4, 3, 2, 1], [0, 0, 0, 1]], np.float32)
    in_order, numbers = best_first(pictures, table)
    assert numbers.tolist() == [[1, 3, 2, 0], [0, 1, 2, 3], [3, 0, 1, 2]]
    for i, of_prompt in enumerate(in_order):
        np.testing.assert_array_equal(of_prompt, pictures[i][numbers[i]])
    assert describe_scores("a  heart", table[0].tolist(), most=2) == (
        "a heart: 3.00 (picture 1), 3.00 (picture 3), 2 others below"
    )
    assert describe_scores("", [2.5]) == "(empty prompt): 2.50 (picture 0)"


def test_long_and_hostile_prompts_keep_the_end_token(ranker: Ranker) -> None:
    hostile = ["w" * 10_000_000, "\ud800\0", f"a{END}b", "́" * 1000, "\u200d"]
    tokens, mask, num_cut = ranker.tokenizer.encode(hostile, 12)
    assert num_cut == 3
    for row, real in zip(tokens, mask, strict=True):
        assert row[0] == 0
        assert row[real].tolist().index(59) == real.sum() - 1
    features = ranker.text_features(hostile)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=0, atol=1e-5)


def test_a_tokenizer_that_is_not_clips_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    write_tokenizer(tmp_path, size=61)
    with pytest.raises(ValueError, match=f"{tmp_path} has 61 tokens, more than the 60"):
        open_ranker(tmp_path)
    write_tokenizer(tmp_path, size=50)
    with pytest.raises(ValueError, match="ends a text with token 49, .* looks for token 59"):
        open_ranker(tmp_path)
    values = json.loads((TINY / "config.json").read_text())
    values["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_ranker(tmp_path).tokenizer.end_id == 49  # then it is the largest id
    write_tokenizer(tmp_path, frame=f"$A {END}")
    with pytest.raises(ValueError, match=r"makes \[59\] of the empty text"):
        open_ranker(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=f"no tokenizer.json in {tmp_path}"):
        open_ranker(tmp_path)

"""The caption normaliser is stored with the tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.text import captions
from data.text.normalise import make_normalizer
from data.text.tokens import open_tokenizer, train_tokenizer

NOISY = "A  Café, 1st #bluecats!"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    train_tokenizer([NOISY, " a cafe , 1st blue cats ! "], 300, tmp_path / "mine" / "tokenizer")
    return tmp_path / "mine" / "tokenizer"


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def test_a_folder_says_its_normaliser(made: Path) -> None:
    assert captions.normalizer_of(made) == "clean"
    write(made / "config.json", {"normalize_text": True})
    assert captions.normalizer_of(made) == "dalle_mini"
    write(made / "config.json", {"normalize_text": False})
    write(made.parent / "config.json", {"origin": {"config": {"normalize_text": True}}})
    assert captions.normalizer_of(made) == "dalle_mini"
    write(made / captions.MARK, {"normalizer": "clean"})
    assert captions.normalizer_of(made) == "clean"
    write(made / captions.MARK, {"normalizer": "upper"})
    with pytest.raises(ValueError, match=r"pastel\.json: normalizer is 'upper'; known are clean"):
        captions.normalizer_of(made)


def test_captions_go_through_it(made: Path) -> None:
    write(made / captions.MARK, {"normalizer": "dalle_mini"})
    found = captions.open_captions(made).encode([NOISY], 24)[0]
    expected = open_tokenizer(made, make_normalizer()).encode([NOISY], 24)[0]
    np.testing.assert_array_equal(found, expected)
    plain = captions.open_captions(made, "clean").encode([NOISY], 24)[0]
    np.testing.assert_array_equal(plain, open_tokenizer(made).encode([NOISY], 24)[0])
    assert (found != plain).any()


def test_a_copy_has_the_tokenizer_and_its_normaliser_and_nothing_else(
    made: Path, tmp_path: Path
) -> None:
    write(made / "config.json", {"normalize_text": True})
    (made / "model.safetensors").write_bytes(b"many")
    captions.copy_tokenizer(made, tmp_path / "copy", captions.normalizer_of(made))
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {"tokenizer.json", captions.MARK}
    assert captions.normalizer_of(tmp_path / "copy") == "dalle_mini"
    assert captions.hash_vocabulary(tmp_path / "copy") == captions.hash_vocabulary(made)


def test_records_whose_tokenizer_changed_are_refused_by_name(made: Path, tmp_path: Path) -> None:
    records, text = made.parent, captions.describe(made, 8)
    captions.check_unchanged(records, text, 8)
    captions.check_unchanged(records, None, 8)
    for name, value in (("pad_id", 7), ("end_id", 7), ("text_length", 9), ("words", "other")):
        with pytest.raises(ValueError, match=rf"made with {name} {value}, and its tokenizer now"):
            captions.check_unchanged(records, text | {name: value}, 8)
    write(
        made / "config.json", {"normalize_text": True}
    )  # as in records from before it was stored there
    with pytest.raises(ValueError, match="made with normalizer clean, .* now has dalle_mini"):
        captions.check_unchanged(records, None, 8)


def test_weights_and_records_have_the_same_normaliser_or_other_words(
    made: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "records" / "tokenizer"
    ours.parent.mkdir()
    captions.copy_tokenizer(made, ours, "clean")
    assert captions.compare_tokenizers(made, "clean", ours, "runs/a") == []
    message = r"runs/a .* normaliser dalle_mini, .*records through clean; encode again with "
    with pytest.raises(ValueError, match=message + rf"--tokenizer={made} --normalizer=dalle_mini"):
        captions.compare_tokenizers(made, "dalle_mini", ours, "runs/a")
    captions.check_same_as_records(made, ours)
    write(made / captions.MARK, {"normalizer": "dalle_mini"})
    with pytest.raises(ValueError, match=r"normaliser dalle_mini\) is not the tokenizer of"):
        captions.check_same_as_records(made, ours)
    train_tokenizer(["another language"], 300, tmp_path / "other")
    (line,) = captions.compare_tokenizers(tmp_path / "other", "dalle_mini", ours, "runs/a")
    assert "knows other words" in line

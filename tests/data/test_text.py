"""Captions to tokens."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from data.text import TextTokenizer, clean, open_tokenizer, train_tokenizer

CAPTIONS = ["a red heart", "a blue cat", "two o’clock", "ein Männlein", "grinning face: dark"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, 300, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return open_tokenizer(folder)


def test_cleaning_composes_and_closes_up_spaces() -> None:
    assert clean("  cafe\u0301\n\n au\tlait ") == "café au lait"


def test_cleaning_survives_what_tokenizers_do_not() -> None:
    assert clean("a\ud800b\0c") == "a\ufffdb c"
    assert len(clean("x" * 10_000_000)) == 4096


def test_training_twice_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(CAPTIONS, 300, tmp_path)
    name = "tokenizer.json"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_rows_end_with_the_end_token_and_are_padded(tokenizer: TextTokenizer) -> None:
    text_tokens, text_mask, num_cut = tokenizer.encode(
        ["a red heart", "a red heart a blue cat"], 12
    )
    lengths = text_mask.sum(axis=1)
    assert num_cut == 0
    assert lengths[0] < lengths[1]
    for row, length in zip(text_tokens, lengths, strict=True):
        assert row[length - 1] == tokenizer.end_id == 1
        assert (row[length:] == tokenizer.pad_id).all()
    assert text_tokens.max() < tokenizer.vocab_size


def test_the_empty_caption_is_the_end_token_alone(tokenizer: TextTokenizer) -> None:
    text_tokens, text_mask, _ = tokenizer.encode(["", "  \n"], 4)
    assert text_tokens.tolist() == [[1, 0, 0, 0]] * 2
    assert text_mask.tolist() == [[True, False, False, False]] * 2


def test_a_long_caption_is_cut_counted_and_still_ends(tokenizer: TextTokenizer) -> None:
    text_tokens, text_mask, num_cut = tokenizer.encode(["a blue cat " * 9, "a cat"], 8)
    assert num_cut == 1
    assert text_tokens[0, -1] == tokenizer.end_id
    assert text_mask[0].all()


def test_a_prompt_that_spells_a_special_token_means_its_letters(tokenizer: TextTokenizer) -> None:
    text_tokens, _, _ = tokenizer.encode(["</s> <pad>"], 24)
    assert (text_tokens[0] == tokenizer.end_id).sum() == 1
    assert text_tokens[0, 0] > 1


def test_case_and_curly_quotes_do_not_matter(tokenizer: TextTokenizer) -> None:
    rows, _, _ = tokenizer.encode(["Two O’Clock", "two o'clock"], 16)
    np.testing.assert_array_equal(rows[0], rows[1])


def test_no_text_is_unknown_or_slow(tokenizer: TextTokenizer) -> None:
    start = time.perf_counter()
    _, text_mask, _ = tokenizer.encode(["日本語 \ud83d🫀", "y" * 5_000_000], 24)
    assert text_mask.any(axis=1).all()
    assert time.perf_counter() - start < 2


def test_too_small_a_vocabulary_is_refused_with_a_number_that_works(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab_size 100 .* try 258 or more"):
        train_tokenizer(CAPTIONS, 100, tmp_path)


def test_names_of_special_tokens_are_read_from_the_folder(folder: Path, tmp_path: Path) -> None:
    model = (
        (folder / "tokenizer.json").read_text().replace("</s>", "[END]").replace("<pad>", "[PAD]")
    )
    (tmp_path / "tokenizer.json").write_text(model)
    with pytest.raises(ValueError, match="no end token; name it as eos_token"):
        open_tokenizer(tmp_path)
    names = {"eos_token": {"content": "[END]"}, "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    foreign, own = open_tokenizer(tmp_path), open_tokenizer(folder)
    for mine, theirs in zip(own.encode(CAPTIONS, 12), foreign.encode(CAPTIONS, 12), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no tokenizer folder"), ("{", "cannot be read")]
)
def test_a_folder_without_a_usable_tokenizer_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_tokenizer(tmp_path / "t")


def test_other_hugging_face_tokenizers_open_through_transformers(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "heart"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = open_tokenizer(tmp_path)
    text_tokens, text_mask, _ = tokenizer.encode(["a red heart", ""], 6)
    assert text_tokens.tolist() == [[2, 5, 6, 7, 3, 0], [2, 3, 0, 0, 0, 0]]
    assert text_mask.sum(axis=1).tolist() == [5, 2]

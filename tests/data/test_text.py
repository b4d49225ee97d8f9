"""Captions to tokens."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from data.text.normalise import make_normalizer
from data.text.tokens import TextTokenizer, check_vocab_size, clean, open_tokenizer, train_tokenizer
from tests.data.hostile import HOSTILE

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
    with pytest.raises(ValueError, match="vocab_size 4,294,967,296 is more than 1,048,576"):
        check_vocab_size(1 << 32)


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


def test_a_file_is_opened_like_its_folder(folder: Path, tokenizer: TextTokenizer) -> None:
    opened = open_tokenizer(folder / "tokenizer.json")
    for mine, theirs in zip(
        opened.encode(CAPTIONS, 12), tokenizer.encode(CAPTIONS, 12), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("framed", [True, False])
def test_barts_frame_is_set_whether_or_not_the_file_sets_it(tmp_path: Path, framed: bool) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(4, 64))]
    frame = processors.RobertaProcessing(("</s>", 2), ("<s>", 0)) if framed else None
    tokenizer = open_tokenizer(save_words(tmp_path, words, frame))
    rows = tokenizer.encode(["w5 w6", "", " \n", "none of these", "w9 " * 9], 6)
    text_tokens, text_mask, num_cut = rows
    assert text_tokens.tolist() == [
        [0, 5, 6, 2, 1, 1],
        [0, 2, 1, 1, 1, 1],
        [0, 2, 1, 1, 1, 1],
        [0, 3, 3, 3, 2, 1],
        [0, 9, 9, 9, 9, 2],
    ]
    assert text_mask.sum(axis=1).tolist() == [4, 2, 2, 5, 6]
    assert (num_cut, tokenizer.vocab_size) == (1, 64)


@pytest.mark.parametrize(
    ("end", "pad"), [("[SEP]", "[PAD]"), ("<|endoftext|>", "<pad>"), ("<eos>", None), ("[EOS]", "")]
)
def test_usual_names_of_end_and_padding_are_known(
    tmp_path: Path, end: str, pad: str | None
) -> None:
    tokenizer = open_tokenizer(save_words(tmp_path, ["<unk>", "a", end, pad or "b", "<s>"]))
    assert tokenizer.end_id == 2
    assert tokenizer.pad_id == (3 if pad else 2)
    assert tokenizer.encode(["a"], 3)[0].tolist() == [[1, 2, tokenizer.pad_id]]


def test_captions_are_normalised_but_no_caption_stays_none(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(
        save_words(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "sun", "set"]),
        make_normalizer(["sun", "set"]),
    )
    text_tokens, _, _ = tokenizer.encode(["<b>SUN</b> #SunSet\ud800", "", "\0 "], 6)
    assert text_tokens.tolist() == [[0, 4, 4, 5, 2, 1], *[[0, 2, 1, 1, 1, 1]] * 2]


def test_the_normaliser_reads_captions_as_they_were_written(folder: Path) -> None:
    seen: list[str] = []

    def note(caption: str) -> str:
        seen.append(caption)
        return " cat"

    tokenizer = open_tokenizer(folder, note)
    spaced, _, _ = tokenizer.encode([" Ã\xa0  la"], 6)
    assert seen == [" Ã\xa0  la"]
    np.testing.assert_array_equal(spaced, open_tokenizer(folder).encode(["cat"], 6)[0])


def save_words(folder: Path, words: list[str], frame: Any = None) -> Path:
    """Write a tokenizer.json of whole words into an otherwise empty folder."""
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame is not None:
        tokenizer.post_processor = frame
    tokenizer.save(str(folder / "words.json"))
    return folder / "words.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer folder"),
        ("", "tokenizer.json cannot be read"),
        ("{", "tokenizer.json cannot be read"),
        ("[1, 2]", "tokenizer.json holds a list, not a JSON object"),
        ('{"model": {"type": "WordLevel", "vocab": [], "unk_token": 3}}', "json cannot be read"),
        ("[" * 100_000, "tokenizer.json cannot be read"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_tokenizer(tmp_path / "t")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "merges"), [["", "a"]], "cannot be read"),  # panics in Rust
        (("model", "merges"), 5, "cannot be read"),
        (("model", "vocab", "a"), 2**31, "token 2147483648 is not one of its 2147483649 tokens"),
        (("model", "vocab"), {}, "cannot be read|no end token"),
        (("post_processor", "special_tokens", "</s>", "ids"), [999], "token 999 is not one of its"),
        (("added_tokens",), {}, "cannot be read"),
    ],
)
def test_a_damaged_tokenizer_is_refused_by_name(
    folder: Path, tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    place = settings
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"tokenizer.json.*({message})") as caught:
        open_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds a list, not a JSON object"),
        (b'{"eos_token": 5}', "eos_token is 5; expected a token's text"),
        (b'{"eos_token": {"content": []}}', "expected a token's text"),
        (b'{"pad_token": ["<pad>"]}', "pad_token is "),
        (b'{"eos_token": ', "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_damaged_settings_are_refused_by_name(
    folder: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"tokenizer_config.json.*{message}") as caught:
        open_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_may_leave_names_out(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null, "pad_token": {}}')
    assert (open_tokenizer(tmp_path).end_id, open_tokenizer(tmp_path).pad_id) == (1, 0)


def test_a_word_that_cannot_be_encoded_is_reported_with_the_file(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(save_words(tmp_path, ["</s>", "a"]))
    with pytest.raises(ValueError, match="words.json cannot encode a caption"):
        tokenizer.encode(["b"], 4)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_prompts_become_rows_in_no_time(folder: Path, name: str, normalised: bool) -> None:
    tokenizer = open_tokenizer(folder, make_normalizer() if normalised else None)
    tokenizer.encode(["warm 🍕"], 64)
    start = time.process_time()
    text_tokens, text_mask, _ = tokenizer.encode([HOSTILE[name]], 64)
    assert time.process_time() - start < 0.5  # 0.07 s at most on an idle core; the aim is 0.2
    assert text_mask[0, 0]
    assert text_tokens.max() < tokenizer.vocab_size


def test_bert_s_files_are_read(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "heart"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = open_tokenizer(tmp_path)
    text_tokens, text_mask, _ = tokenizer.encode(["a red heart", ""], 6)
    assert text_tokens.tolist() == [[2, 5, 6, 7, 3, 0], [2, 3, 0, 0, 0, 0]]
    assert text_mask.sum(axis=1).tolist() == [5, 2]

"""Other people's tokenizers are read in bounded time and memory, and none of their code is run."""

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from data.text.tokenizer_files import read_tree
from data.text.tokens import open_tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {word: i for i, word in enumerate(["</s>", "<pad>", "<unk>", "a", "b", "c"])}


def saved(folder: Path, **parts: Any) -> Path:
    """Write a tokenizer.json of words with these parts."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tree = {**json.loads(tokenizer.to_str()), **parts}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return folder


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize("pattern", [GPT2, CLIP, LLAMA, r"\s+", " {2,}", r"\d{1,3}", "[0-9]"])
def test_expressions_of_published_tokenizers_are_taken(tmp_path: Path, pattern: str) -> None:
    folder = saved(
        tmp_path,
        normalizer=replace({"Regex": r"\s+"}, " "),
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [split(pattern), {"type": "WhitespaceSplit"}],
        },
    )
    assert open_tokenizer(folder).encode(["a  b"], 4)[0].tolist() == [[3, 4, 0, 1]]


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+b",
        r"(a|a)*b",
        r"(a|aa)+$",
        r"a*a*a*a*b",
        r"\s*\s*x",
        "a?" * 30 + "a" * 30,
        "(a|a)" * 30 + "b",
        "((a{1,99}){1,99}){1,99}",
        r"(a)\1+",
        r"(?<=a+)b",
        r"(?=a+b)a",
        r".*.*x",
        r"a++a+b",
        r"a+(?!\S)",
        r"[a-z&&[^b]]+c",
        "a" * 501,
        "(",
        "[a",
        r"\X+",
        "a{1,999}",
    ],
)
def test_expressions_that_may_not_end_are_refused_before_they_are_built(
    tmp_path: Path, pattern: str
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer.json.*known to end soon") as caught:
        open_tokenizer(saved(tmp_path, pre_tokenizer=split(pattern)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="known to end soon"):
        open_tokenizer(saved(tmp_path, normalizer=replace({"Regex": pattern}, "")))


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


DOUBLE = replace({"String": "a"}, "aa")
CHARSMAP = base64.b64encode(bytes(4) + b"x" * 9000 + b"\0").decode()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": sequence(*[DOUBLE] * 5)}, "32 times longer"),
        ({"normalizer": sequence(sequence(DOUBLE, DOUBLE), sequence(*[DOUBLE] * 3))}, "32 times"),
        ({"normalizer": replace({"String": "a"}, "a" * 17)}, "17 times longer"),
        ({"normalizer": replace({"Regex": r"\s"}, "a" * 17)}, "17 times longer"),
        ({"normalizer": replace({"String": "a"}, "a" * 1001)}, "at most 1000 letters"),
        ({"normalizer": replace({"String": ""}, "a")}, "pattern is empty"),
        ({"normalizer": sequence(*[{"type": "ByteLevel"}] * 3)}, "64 times longer"),
        ({"normalizer": sequence(*[{"type": "Lowercase"}] * 17)}, "more than 16 parts"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}}, "225 times"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "is not base64"),
        ({"normalizer": {"type": "Python", "code": "x"}}, "'Python' is not one of the known kinds"),
        ({"normalizer": []}, r"normalizer is \[\]; expected names and values"),
        ({"pre_tokenizer": {"type": "Sequence"}}, "expected a list of parts"),
        ({"pre_tokenizer": {"type": ["x"]}}, "not one of the known kinds"),
        ({"post_processor": {"type": "Odd"}}, "'Odd' is not one of"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 9,
                    "pair": [],
                    "special_tokens": {},
                }
            },
            "repeats the text",
        ),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.5}}, "random"),
        ({"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}}, "0..1000"),
        ({"model": {"type": "Unigram", "vocab": [["a" * 300, 0.0]]}}, "at most 256 letters"),
        ({"model": {"type": "Unigram", "vocab": [["a", "b"]]}}, "each with its score"),
        ({"model": {"type": "Magic"}}, "'Magic' is not one of"),
        ({"model": None}, "model is None"),
        ({"added_tokens": [{"content": "x"}] * 20_001}, "at most 20,000"),
        ({"added_tokens": [{"content": ""}]}, "is empty"),
        ({"added_tokens": [3]}, "added_tokens is 3"),
    ],
)
def test_parts_beyond_a_bound_are_refused_by_name(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=rf"tokenizer.json cannot be read: .*{message}") as caught:
        open_tokenizer(saved(tmp_path, **parts))
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 3


def test_unused_parts_of_a_tokenizer_are_not_built(tmp_path: Path) -> None:
    hostile = {"type": "Replace", "pattern": {"Regex": "((a{1,999}){1,999}){1,999}"}, "content": ""}
    tree = read_tree(saved(tmp_path, decoder=hostile, padding=5) / "tokenizer.json")
    assert not tree.keys() & {"decoder", "padding", "truncation"}
    assert open_tokenizer(tmp_path).vocab_size == 6


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "type": "WordLevel"}}')
    with pytest.raises(ValueError, match="'type' appears twice"):
        open_tokenizer(tmp_path)


def test_code_beside_a_tokenizer_is_never_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "Tok"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ValueError, match=r"has no tokenizer.json, nor merges.txt .* save it as"):
        open_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e")
    with pytest.raises(ValueError, match="spiece.model is SentencePiece's"):
        open_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def test_gpt2_s_files_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġr", "ed", "Ġred", "ca", "cat"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("Ġ", "r"), ("e", "d"), ("Ġr", "ed"), ("c", "a"), ("ca", "t")]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    theirs = Tokenizer(models.BPE(vocabulary, merges))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokens, mask, _ = open_tokenizer(tmp_path).encode(["cat red 日本 </s>", ""], 24)
    wanted = theirs.encode("cat red 日本 </s>", add_special_tokens=True)
    assert tokens[0][mask[0]].tolist() == wanted.ids
    assert tokens[1][mask[1]].tolist() == [0, 2]
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1}))
    with pytest.raises(ValueError, match=r"vocab.json is not of GPT-2.s kind"):
        open_tokenizer(tmp_path)


def test_clip_s_published_parts_pass(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"</s>": 0, "a</w>": 1}, [], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path).encode(["A a"], 4)[0].tolist() == [[1, 1, 0, 0]]


def test_the_worst_that_passes_ends_soon(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(
        saved(
            tmp_path,
            normalizer=replace({"String": "a"}, "a" * 16),
            pre_tokenizer=split(r"[ab]?[ab]?[ab]?[ab]?c|a{1,64}d|b+"),
        )
    )
    start = time.process_time()
    tokenizer.encode(["a" * 4096, "a" * 4095 + "b"], 8)
    assert time.process_time() - start < 5

"""Reads a tokenizer's files: tokenizer.json, vocab.json with merges.txt, or vocab.txt. Nothing in a
folder can run: code beside a tokenizer is ignored, and data/text/tokenizer_checks.py checks every
part of what the library gets.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from common.json_files import Json, read_json
from data.text.tokenizer_checks import checked

MAX_BYTES = 48 << 20
HOW = "save it as tokenizer.json with the program that wrote it"


def read_tree(path: Path) -> Json:
    """The content of a tokenizer.json, or of a folder's older files in the same form. Every
    returned part runs in bounded time and memory.

    Raises:
        ValueError: a part is unknown or exceeds a limit. The message names the file and the key.
    """
    if path.is_dir():
        path, tree = _old_files(path)
    else:
        tree = read_json(path, MAX_BYTES)
    try:
        return checked(tree)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _old_files(folder: Path) -> tuple[Path, Json]:
    """(path, content) of a folder's older files; the content has the form of a tokenizer.json."""
    settings = folder / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    readers: dict[str, Callable[[Path, Json], Json]]
    readers = {"merges.txt": _gpt2, "vocab.txt": _bert}
    for name, reader in readers.items():
        if (folder / name).is_file():
            return folder / name, reader(folder, config)
    models = sorted(file.name for file in folder.glob("*.model"))
    more = f" ({models[0]} is SentencePiece's)" if models else ""
    raise ValueError(
        f"{folder} has no tokenizer.json, nor merges.txt with vocab.json, nor vocab.txt{more}; "
        f"{HOW}"
    )


def _gpt2(folder: Path, config: Mapping[str, object]) -> Json:
    """The content of GPT-2's and BART's files: BPE whose letters are bytes."""
    vocabulary = read_json(folder / "vocab.json", MAX_BYTES)
    if any(word.endswith("</w>") for word in vocabulary):
        raise ValueError(f"{folder / 'vocab.json'} is not of GPT-2's kind; {HOW}")
    lines = _lines(folder / "merges.txt")
    merges = [line for line in lines if line and not line.startswith("#version")]
    spaced = {"add_prefix_space": config.get("add_prefix_space") is True, "trim_offsets": True}
    return {
        "version": "1.0",
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": True, **spaced},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }


def _bert(folder: Path, config: Mapping[str, object]) -> Json:
    """The content of BERT's file. Each line is a word, or ## and the continuation of a word."""
    vocabulary = {word: i for i, word in enumerate(_lines(folder / "vocab.txt"))}
    missing = [word for word in ("[UNK]", "[CLS]", "[SEP]") if word not in vocabulary]
    if missing:
        raise ValueError(f"{folder / 'vocab.txt'} has no {missing[0]}, as BERT's have; {HOW}")
    lower = config.get("do_lower_case") is not False
    cleaning = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    frame = {name: [word, vocabulary[word]] for name, word in (("sep", "[SEP]"), ("cls", "[CLS]"))}
    model = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]"}
    pieces = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    return {
        "version": "1.0",
        "normalizer": {"type": "BertNormalizer", **cleaning, "lowercase": lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", **frame},
        "model": model | pieces,
    }


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def as_text(tree: Mapping[str, object]) -> str:
    """The tree as JSON for the library. The library never gets the file's own text: if a key occurs
    twice, it could read the value that was not checked."""
    return json.dumps(tree, ensure_ascii=True)

"""Reads a tokenizer's files: tokenizer.json, vocab.json with merges.txt, or vocab.txt.

A tokenizer.json is a small program. In a hostile file, some regular expressions never end, and
chains of growing replacements or nested counts fill the memory. So each part is checked first. Only
known kinds that run in bounded time and memory are accepted. Code beside a tokenizer is never run.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.json_files import Json, read_json

MAX_BYTES, MAX_VOCABULARY, MAX_ADDED, MAX_PARTS = 48 << 20, 2_000_000, 20_000, 16
MAX_GROWTH = 16
"""The largest factor by which normalizers may lengthen a caption."""
MAX_FRAME, MAX_WORD, MAX_PIECE, MAX_REGEX, MAX_CHOICES = 16, 1000, 256, 500, 4
GROWTH = {
    **dict.fromkeys(("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents"), 1),
    **dict.fromkeys(
        ("Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "BertPreTokenizer"), 1
    ),
    **dict.fromkeys(
        ("CharDelimiterSplit", "UnicodeScripts", "Split", "Metaspace", "Precompiled"), 1
    ),
    **dict.fromkeys(("Replace", "Prepend", "BertNormalizer"), 1),
    "ByteLevel": 4,  # each byte becomes a letter
}
"""Known kind of normalizer or pre-tokenizer → the largest factor by which it lengthens a text.
`_growth` also counts the texts that a part inserts."""
FRAMES = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")
MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")
_CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN = {_CASES + r"\p{N}{1,3}" + _REST, _CASES + r"\p{N}" + _REST}
"""Expressions of published tokenizers (cl100k, Llama 3, Qwen 2). They run in bounded time, which
`_ends_soon` cannot prove."""
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
        return _checked(tree)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _checked(tree: dict[str, object]) -> Json:
    growth = 1.0
    for name in ("normalizer", "pre_tokenizer"):
        for part in _parts(tree.get(name), name):
            growth *= _growth(part, name)
    if growth > MAX_GROWTH:
        raise ValueError(f"its normalizer can make a text {growth:.3g} times longer")
    for part in _parts(tree.get("post_processor"), "post_processor"):
        _check_frame(part)
    _check_added(tree.get("added_tokens", []))
    model = _object(tree.get("model"), "model")
    kept = {name: tree.get(name) for name in ("version", "normalizer", "pre_tokenizer")}
    # decoder, truncation and padding are not used here.
    return {
        **kept,
        "post_processor": tree.get("post_processor"),
        "added_tokens": tree.get("added_tokens", []),
        "model": _checked_model(model),
    }


def _object(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}; expected names and values")
    return value


def _parts(value: object, name: str) -> Iterator[Json]:
    """The parts of a sequence, nested sequences included."""
    for number, part in enumerate(_all_parts(value, name, 0)):
        if number == MAX_PARTS:
            raise ValueError(f"{name} has more than {MAX_PARTS} parts")
        yield part


def _all_parts(value: object, name: str, depth: int) -> Iterator[Json]:
    if value is None:
        return
    part = _object(value, name)
    if part.get("type") != "Sequence":
        yield part
        return
    inner = next(
        (part[k] for k in ("normalizers", "pretokenizers", "processors") if k in part), None
    )
    if not isinstance(inner, list) or depth > 4:
        raise ValueError(f"{name} has a Sequence of {inner!r:.60}; expected a list of parts")
    for entry in inner:
        yield from _all_parts(_object(entry, name), name, depth + 1)


def _growth(part: Mapping[str, object], name: str) -> float:
    type_name = part.get("type")
    if not isinstance(type_name, str) or type_name not in GROWTH:
        raise ValueError(
            f"{name} {type_name!r:.60} is not one of the known kinds {', '.join(GROWTH)}"
        )
    if type_name == "Precompiled":
        return _charsmap_growth(part.get("precompiled_charsmap"))
    if type_name == "Prepend":
        return 1 + len(_text(part.get("prepend"), f"{name}.prepend")) / MAX_FRAME
    if "pattern" not in part:
        return float(GROWTH[type_name])
    pattern = _object(part["pattern"], f"{name}.pattern")
    content = _text(part.get("content", ""), f"{name}.content")
    if "Regex" in pattern:
        _check_regex(_text(pattern["Regex"], f"{name}.pattern.Regex"))
        return max(1.0, float(len(content)))
    literal = _text(pattern.get("String"), f"{name}.pattern.String")
    if type_name != "Replace":
        return 1.0
    if not literal:
        raise ValueError(f"{name}.pattern is empty")
    return max(1.0, len(content) / len(literal))


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_WORD:
        raise ValueError(f"{name} is {value!r:.60}; expected a text of at most {MAX_WORD} letters")
    return value


def _charsmap_growth(value: Any) -> float:
    """The factor by which SentencePiece's character map can lengthen a text. The map has three
    parts: a trie's size, the trie, and the replacements. NUL ends each replacement."""
    import base64

    if value is None:
        return 1.0
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise ValueError("precompiled_charsmap is not base64 text") from None
    start = 4 + int.from_bytes(data[:4], "little")
    if start > len(data) or (start - 4) % 4:
        raise ValueError("precompiled_charsmap is truncated")
    longest = max((len(text) for text in data[start:].split(b"\0")), default=0)
    return max(1.0, longest / 40)  # U+FDFA is 18 letters, 33 bytes, of Arabic


def _check_regex(pattern: str) -> None:
    if pattern not in KNOWN and (len(pattern) > MAX_REGEX or not _ends_soon(pattern)):
        raise ValueError(f"the expression {pattern!r:.80} is not known to end soon")


ATOM = re.compile(
    r"(?P<ahead>\(\?!\\S\))|(?P<opens>\((?:\?i?:)?(?!\?))|(?P<closes>\))|(?P<bar>\|)"
    r"|(?P<endless>[*+]|\{\d*,\})|(?P<maybe>\?)|(?P<counts>\{\d{1,2}(?:,\d{1,2})?\})"
    r"|(?P<letter>\\[pP]\{\^?\w+\}|\\[sSdDwWrnt]|\\[^\w\s]|\[\^?(?:\\[pP]\{\^?\w+\}|\\[sSdDwWrnt]"
    r"|\\[^\w\s]|[^][\\&])+\]|[^][\\(){}*+?|])"
)
"""One piece of a simple regular expression: no back references, no lookbehind."""


def _ends_soon(pattern: str) -> bool:
    """True if the form of an expression proves that its time is linear in the text's length: no
    group is repeated, few pieces are optional, and an unbounded repetition is the last piece of its
    alternative, so that there is no backtracking."""
    place, depth, after = 0, 0, ""
    choices, is_open = 0, False  # optional pieces, unbounded repetition of this alternative
    while place < len(pattern):
        if (match := ATOM.match(pattern, place)) is None:
            return False
        kind, is_spaces = str(match.lastgroup), pattern[:place].endswith(r"\s+")
        place = match.end()
        if kind in ("endless", "maybe", "counts"):
            if after not in ("letter", "closes") or (after == "closes" and kind != "maybe"):
                return False
            choices += kind != "endless"
            if kind == "endless" and (depth or is_open):
                return False
            is_open |= kind == "endless"
        elif kind == "bar" and not depth:
            choices, is_open = 0, False
        elif (kind == "ahead" and not is_spaces) or (kind != "ahead" and is_open):
            return False
        choices += kind == "opens"
        depth += (kind == "opens") - (kind == "closes")
        if choices > MAX_CHOICES or depth not in (0, 1):
            return False
        after = kind
    return depth == 0


def _check_frame(part: Mapping[str, object]) -> None:
    type_name = part.get("type")
    if type_name not in FRAMES:
        raise ValueError(f"post_processor {type_name!r:.60} is not one of {', '.join(FRAMES)}")
    if type_name != "TemplateProcessing":
        return
    known = _object(part.get("special_tokens"), "post_processor.special_tokens")
    for token in known.values():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or len(ids) > MAX_FRAME:
            raise ValueError(f"post_processor.special_tokens holds {token!r:.60}")
    for name in ("single", "pair"):
        template = part.get(name)
        if not isinstance(template, list) or len(template) > MAX_FRAME:
            raise ValueError(f"post_processor.{name} is {template!r:.60}; expected a short list")
        texts = sum(isinstance(entry, dict) and "Sequence" in entry for entry in template)
        if texts > 2 or (name == "single" and texts > 1):
            raise ValueError(f"post_processor.{name} repeats the text")
        for piece in template:
            named = piece.get("SpecialToken") if isinstance(piece, dict) else None
            word = named.get("id") if isinstance(named, dict) else None
            # If the token is missing, the library panics and writes to stderr.
            if named is not None and not (isinstance(word, str) and word in known):
                raise ValueError(f"post_processor.{name} has no special token for {named!r:.60}")


def _check_added(tokens: object) -> None:
    if not isinstance(tokens, list) or len(tokens) > MAX_ADDED:
        raise ValueError(f"added_tokens must be a list of at most {MAX_ADDED:,} tokens")
    for token in tokens:
        if not _text(_object(token, "added_tokens").get("content"), "added_tokens.content"):
            raise ValueError("added_tokens.content is empty")


def _checked_model(model: Json) -> Json:
    """The model's settings. "type" is added if an old file lacks it."""
    type_name = model.get("type", "BPE" if "merges" in model else "WordLevel")
    if type_name not in MODELS:
        raise ValueError(f"model {type_name!r:.60} is not one of {', '.join(MODELS)}")
    if model.get("dropout") not in (None, 0):
        raise ValueError("model.dropout makes tokens random; remove it")
    for name in ("vocab", "merges"):
        if isinstance(model.get(name), list | dict) and len(model[name]) > MAX_VOCABULARY:
            raise ValueError(f"model.{name} has more than {MAX_VOCABULARY:,} entries")
    if not isinstance(model.get("merges") or [], list):
        raise ValueError("model.merges must be a list of pairs")
    for merge in model.get("merges") or ():
        if isinstance(merge, list) and not all(isinstance(one, str) and one for one in merge):
            raise ValueError(f"model.merges holds {merge!r:.60}; expected two pieces")
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            _text(model[name], f"model.{name}")
    limit = model.get("max_input_chars_per_word", 100)
    if type(limit) is not int or not 0 <= limit <= MAX_WORD:
        raise ValueError(f"model.max_input_chars_per_word {limit!r:.60} is not in 0..{MAX_WORD}")
    vocabulary = model.get("vocab")
    if type_name == "Unigram" and isinstance(vocabulary, list):
        longest = max((len(one[0]) for one in vocabulary if _is_scored(one)), default=0)
        if longest > MAX_PIECE or not all(map(_is_scored, vocabulary)):
            raise ValueError(
                f"model.vocab must hold texts of at most {MAX_PIECE} letters, each with its score"
            )
    return {"type": type_name, **model}


def _is_scored(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and entry[1] == entry[1]
    )


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

"""Checks of an untrusted tokenizer.json.

Such a file is a small program. In a hostile one, some regular expressions never end, and chains of
growing replacements or nested counts fill the memory. So each part is checked, and only known kinds
that run in bounded time and memory are accepted.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from common.json_files import Json
from data.text.safe_regex import check_regex

MAX_VOCABULARY, MAX_ADDED, MAX_PARTS, MAX_DEPTH = 2_000_000, 20_000, 16, 4
MAX_GROWTH = 16
"""The largest factor by which normalizers may lengthen a caption."""
MAX_FRAME, MAX_WORD, MAX_PIECE = 16, 1000, 256
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


def checked(tree: dict[str, object]) -> Json:
    """The parts of a tokenizer.json that are used: not decoder, truncation and padding. Each of
    them runs in bounded time and memory.

    Raises:
        ValueError: a part is unknown or exceeds a limit. The message names the key.
    """
    growth = 1.0
    for name in ("normalizer", "pre_tokenizer"):
        for part in _parts(tree.get(name), name):
            growth *= _growth(part, name)
    if growth > MAX_GROWTH:
        raise ValueError(f"its normalizer can make a text {growth:.3g} times longer")
    for part in _parts(tree.get("post_processor"), "post_processor"):
        _check_frame(part)
    _check_added(tree.get("added_tokens", []))
    model = _checked_model(_object(tree.get("model"), "model"))
    kept = ("version", "normalizer", "pre_tokenizer", "post_processor")
    added = {"added_tokens": tree.get("added_tokens", []), "model": model}
    return {name: tree.get(name) for name in kept} | added


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
    if not isinstance(inner, list) or depth > MAX_DEPTH:
        raise ValueError(f"{name} has a Sequence of {inner!r:.60}; expected a list of parts")
    for entry in inner:
        yield from _all_parts(_object(entry, name), name, depth + 1)


def _growth(part: Mapping[str, object], name: str) -> float:
    """The largest factor by which a normalizer or pre-tokenizer lengthens a text."""
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
        check_regex(_text(pattern["Regex"], f"{name}.pattern.Regex"))
        return max(1.0, float(len(content)))
    literal = _text(pattern.get("String"), f"{name}.pattern.String")
    if type_name != "Replace":
        return 1.0
    if not literal:
        raise ValueError(f"{name}.pattern is empty")
    return max(1.0, len(content) / len(literal))


def _charsmap_growth(value: Any) -> float:
    """The factor by which SentencePiece's character map can lengthen a text. The map has three
    parts: a trie's size, the trie, and the replacements. NUL ends each replacement."""
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


def _check_frame(part: Mapping[str, object]) -> None:
    """Check a post-processor, which puts a few special tokens around a text."""
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
    for name, most_texts in (("single", 1), ("pair", 2)):
        _check_template(part.get(name), f"post_processor.{name}", most_texts, known)


def _check_template(template: object, name: str, most_texts: int, known: Json) -> None:
    """Check a list of texts and special tokens; `known` are the tokens that may be named."""
    if not isinstance(template, list) or len(template) > MAX_FRAME:
        raise ValueError(f"{name} is {template!r:.60}; expected a short list")
    texts = sum(isinstance(piece, dict) and "Sequence" in piece for piece in template)
    if texts > most_texts:
        raise ValueError(f"{name} repeats the text")
    for piece in template:
        token = piece.get("SpecialToken") if isinstance(piece, dict) else None
        word = token.get("id") if isinstance(token, dict) else None
        # If the token is missing, the library panics and writes to stderr.
        if token is not None and not (isinstance(word, str) and word in known):
            raise ValueError(f"{name} has no special token for {token!r:.60}")


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
    _check_merges(model.get("merges") or [])
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            _text(model[name], f"model.{name}")
    limit = model.get("max_input_chars_per_word", 100)
    if type(limit) is not int or not 0 <= limit <= MAX_WORD:
        raise ValueError(f"model.max_input_chars_per_word {limit!r:.60} is not in 0..{MAX_WORD}")
    vocabulary = model.get("vocab")
    if type_name == "Unigram" and isinstance(vocabulary, list):
        _check_scores(vocabulary)
    return {"type": type_name, **model}


def _check_merges(merges: object) -> None:
    if not isinstance(merges, list):
        raise ValueError("model.merges must be a list of pairs")
    for merge in merges:
        if isinstance(merge, list) and not all(isinstance(p, str) and p for p in merge):
            raise ValueError(f"model.merges holds {merge!r:.60}; expected two pieces")


def _check_scores(vocabulary: list[Any]) -> None:
    """Check a vocabulary of [piece, score]."""
    longest = max((len(entry[0]) for entry in vocabulary if _is_scored(entry)), default=0)
    if longest > MAX_PIECE or not all(map(_is_scored, vocabulary)):
        raise ValueError(
            f"model.vocab must hold texts of at most {MAX_PIECE} letters, each with its score"
        )


def _is_scored(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and entry[1] == entry[1]  # no NaN
    )


def _object(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}; expected names and values")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_WORD:
        raise ValueError(f"{name} is {value!r:.60}; expected a text of at most {MAX_WORD} letters")
    return value

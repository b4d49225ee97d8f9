"""Reads captions from bytes: from lines, from JSON, and from columns with known names."""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from unicodedata import category

from common.json_files import Json
from data.sources.base import MAX_CAPTION_BYTES, Captions, printable
from data.sources.captions.encodings import decode
from data.sources.files.tree import is_picture
from data.text.tokens import clean

CAPTION_NAMES = (
    *("captions", "caption", "text", "txt", "prompt", "prompts", "sentences", "sentence", "raw"),
    *("sentids_text", "comment", "comments", "description", "alt_text", "alttext", "alt", "title"),
    *("conversations", "messages"),
)
"""Columns and JSON keys that hold captions, in the order in which they are tried; letter case does
not matter, and NAME_0, NAME_1 … are the captions of one picture."""
_NO_CAPTIONS = frozenset(
    (
        *("negative", "id", "ids", "lang", "language", "length", "len", "score", "scores", "url"),
        *("source", "model", "hash", "embedding", "tokens", "type", "count", "num", "file", "path"),
        *("similarity", "status", "date", "time", "category", "index", "version"),
    )
)
"""Words in names of columns that say something about captions, such as text_lang."""
_NOT_KEPT = {
    *("key", "source_index", "file", "member", "split", "weights", "status", "error_message"),
    *(set(CAPTION_NAMES) - {"title", "description", "alt_text", "alttext", "alt", "comment"}),
}
_MOST_COLUMNS, _LONGEST = 40, 300
MAX_CAPTIONS = 100
MISSING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "#N/A"})
"""Words that programs write for a missing text."""
_ANSWERS = ("gpt", "assistant", "model")
"""Speakers in a conversation about a picture whose sentences are used as its captions."""
_LONGEST_CELL = 1 << 16  # characters of a column's value
_SAFE = (1e-6, 1e6)  # weights in this range can be summed in float32
_MAX_DEPTH, _MAX_NESTED = 4, 8
_FEWEST_ATTRIBUTES = 10  # a caption of fewer digits may be what a picture shows
_BOX = re.compile(r"\s*\d+(?:[ \t]+-?\d+(?:\.\d+)?(?:e-?\d+)?){4,}\s*")
"""A line of a detector's labels: a class, a place and a size."""
_LITERAL = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ESCAPED = re.compile(r"\\(['\"\\])")
_UNSEEN = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x01-\x08\x0e-\x1b\x7f\ufeff]")
"""Colours of terminals, control characters, byte order marks within a text."""
_ATTRIBUTES = re.compile(r"-?[01](?:[\s,;]+-?[01]){2,}")
"""Values of attributes in numbers, such as CelebA's -1 and 1."""
_TAG = re.compile(
    r"</?(?:a|abbr|b|big|br|center|code|div|em|font|h[1-6]|i|img|li|ol|p|small|span|strong|sub|sup|u|ul)"
    r"(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)


@dataclass
class ReadCaptions:
    """The captions of one picture, and notes about repairs and skipped captions."""

    captions: Captions = ()
    notes: list[str] = field(default_factory=list)


def from_lines(data: bytes, encoding: str = "") -> ReadCaptions:
    """The captions in a file with one caption per line."""
    if len(data) > MAX_CAPTION_BYTES:
        return ReadCaptions(
            notes=[f"a caption file of more than {MAX_CAPTION_BYTES:,} bytes is not read"]
        )
    text, name = decode(data, encoding)
    if text.startswith("{\\rtf"):
        return ReadCaptions(notes=["a caption file is a document (RTF): save it as plain text"])
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(map(_BOX.fullmatch, lines)):
        return ReadCaptions(
            notes=["a caption file has numbers of boxes, as YOLO writes them, no text"]
        )
    result = weighed(text.splitlines())
    if name:
        result.notes.append(f"captions were read as {name}")
    return result


def from_json(data: bytes, column: str = "", encoding: str = "") -> tuple[ReadCaptions, Json]:
    """The captions in a JSON object, list or string; and the object, empty if it is not one."""
    if len(data) > MAX_CAPTION_BYTES:
        note = f"a caption file of more than {MAX_CAPTION_BYTES:,} bytes is not read"
        return ReadCaptions(notes=[note]), {}
    text, name = decode(data, encoding)
    try:
        about = parse_json(text)
    except (ValueError, RecursionError):
        return ReadCaptions(notes=["a caption file is not JSON"] if data.strip() else []), {}
    if not isinstance(about, dict):
        return weighed(texts_of(about)), {}
    result = from_columns(about, column)
    if name:
        result.notes.append(f"captions were read as {name}")
    if not result.captions and not result.notes:
        keys = ", ".join(printable(str(key)) for key in list(about)[:8])
        result.notes.append(f"a JSON has no caption; its keys are {keys}")
    return result, about


def parse_json(text: str) -> Any:
    """The value of a JSON text. A key that an object repeats has the list of its values: they may
    be captions of one picture. Raises ValueError if the text is not JSON."""
    return json.loads(text, object_pairs_hook=_all_values)


def _all_values(pairs: list[tuple[str, Any]]) -> Json:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    every: dict[str, list[Any]] = {}
    for name, value in pairs:
        every.setdefault(name, []).append(value)
    return {name: few[0] if len(few) == 1 else few for name, few in every.items()}


DECODER = json.JSONDecoder(object_pairs_hook=_all_values)
"""The decoder of `parse_json`, for texts of several values."""


def caption_columns(names: Iterable[str], column: str = "") -> list[list[str]]:
    """Groups of columns that may hold captions, in the order in which they are tried."""
    names = list(names)
    if column:
        return [[name for name in names if name == column]]
    groups = []
    for known in CAPTION_NAMES:
        groups.append([name for name in names if name.lower() == known])
        numbered = [n for n in names if re.fullmatch(rf"{known}[_ -]?\d+", n.lower())]
        groups.append(sorted(numbered, key=lambda n: int(re.split(r"\D+", n)[-1])))
    groups = [group for group in groups if group]
    if not groups:
        groups = [[n for n in names if known in _caption_words(n)] for known in CAPTION_NAMES[:10]]
    return [group for group in groups if group]


def _caption_words(name: str) -> set[str]:
    """The words of a column such as long_caption or Caption.en; none if it is about captions."""
    words = set(re.split(r"[\W_]+", name.lower()))
    return set() if words & _NO_CAPTIONS else words


def is_known(name: str) -> bool:
    """True for a known name of a column of captions, numbered or not."""
    return re.sub(r"[_ -]?\d+$", "", name.lower()) in CAPTION_NAMES


def from_columns(about: Mapping[str, object], column: str = "") -> ReadCaptions:
    """The captions in the first known column that holds a usable one. The column `weights` is used
    if it has as many entries."""
    notes: list[str] = []
    for group in caption_columns([n for n in about if isinstance(n, str)], column):
        texts = [text for name in group for text in texts_of(about[name])]
        result = weighed(texts, about.get("weights"))
        notes += result.notes
        if result.captions:
            return ReadCaptions(result.captions, notes)
    if not notes:
        return weighed(_nested(about.get(column) if column else about))
    return ReadCaptions((), notes)


def _nested(value: object, depth: int = 0) -> list[Any]:
    """The texts under known names in objects at any depth, as Label Studio writes them."""
    if depth > _MAX_NESTED or not isinstance(value, Mapping | list):
        return []
    if isinstance(value, Mapping) and (texts := texts_of(value)):
        return texts
    entries = value.values() if isinstance(value, Mapping) else value
    return [text for entry in entries for text in _nested(entry, depth + 1)]


def texts_of(value: object, depth: int = 0) -> list[Any]:
    """The texts in `value`: a text, a list of texts, structs such as COCO's {"caption": …}, or the
    answers in a conversation. Values that are not text stay in the list, so that weights keep their
    places."""
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        if isinstance(speaker := value.get("from", value.get("role")), str):
            answer = value.get("value", value.get("content"))
            return texts_of(answer, depth + 1) if speaker.lower() in _ANSWERS else []
        for group in caption_columns([n for n in value if isinstance(n, str)]):
            texts = [t for name in group for t in texts_of(value[name], depth + 1)]
            if any(isinstance(t, str) and t.strip() for t in texts):
                return texts
        return []
    if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        if (text := _rich_text(value)) is not None:
            return [text]
        nested = [texts_of(entry, depth + 1) or [None] for entry in value]
        return [text for texts in nested for text in texts]
    if isinstance(value, str) and (about := _object_in(value)):
        return _nested(about)
    if isinstance(value, str) and (listed := _texts_in_list(value)):
        return listed
    return [value]


def _rich_text(parts: Sequence[object]) -> str | None:
    """The text of a list of plain and marked parts, as chats export it: ["a ", {"type": "bold",
    "text": "red"}, " bird"]; None for another list."""
    marked = [part for part in parts if isinstance(part, Mapping)]
    words = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not marked or len(marked) == len(parts) or not all("type" in part for part in marked):
        return None
    return "".join(word for word in words if isinstance(word, str))


def _object_in(text: str) -> Json:
    """The JSON object that was written as text into a cell; empty if it is not one."""
    text = text.strip()
    if not (text.startswith('{"') and text.endswith("}") and len(text) <= _LONGEST_CELL):
        return {}
    try:
        return cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _texts_in_list(text: str) -> list[str]:
    """The texts of a list that was written as text into a cell: ["a cat", "one cat"] in JSON, as
    Python's repr or as NumPy's; none if it is not such a list."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]") and len(text) <= _LONGEST_CELL):
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        is_list = not _LITERAL.sub("", text).strip("[], \r\n\t")
        literals = [single or double for single, double in _LITERAL.findall(text)]
        return [_ESCAPED.sub(r"\1", literal) for literal in literals] if is_list else []
    texts = texts_of(value)
    return texts if all(isinstance(text, str) for text in texts) else []


def weighed(texts: Sequence[object], weights: object = None) -> ReadCaptions:
    """The usable texts, cleaned, with weights that can be summed in float32."""
    notes = []
    if not isinstance(weights, list | tuple) or len(weights) != len(texts):
        if isinstance(weights, list | tuple):
            notes.append("the weights of captions do not fit and are not used")
        weights = [1.0] * len(texts)
    pairs: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        caption, number = _cleaned(text), _number(weight)
        if caption in MISSING:
            notes.append("captions such as nan, None or null are taken for missing ones")
        elif why := _no_caption(caption):
            notes.append(why)
        elif caption and number is None:
            notes.append("captions whose weight is not a positive number are skipped")
        elif caption and number is not None:
            pairs.append((caption, number))
    if pairs and not all(_SAFE[0] <= weight <= _SAFE[1] for _, weight in pairs):
        top = max(weight for _, weight in pairs)
        pairs = [(text, w / top) for text, w in pairs if w / top >= _SAFE[0]]
        notes.append("weights of captions beyond 1e-6 to 1e6 are taken as shares of the largest")
    if len(pairs) > MAX_CAPTIONS:
        notes.append(f"captions beyond the first {MAX_CAPTIONS} of a picture are skipped")
    if any(isinstance(text, str) and text != unescape(text) for text in texts):
        notes.append("HTML entities and tags in captions were decoded")
    return ReadCaptions(tuple(pairs[:MAX_CAPTIONS]), list(dict.fromkeys(notes)))


def _cleaned(text: object) -> str:
    """The text of a caption; empty if it is not text, or if there is nothing to see, such as
    zero-width spaces and byte order marks."""
    cleaned = clean(_UNSEEN.sub("", unescape(text))) if isinstance(text, str) else ""
    is_blank = all(category(letter) in ("Cf", "Cc", "Zs") for letter in cleaned)
    return "" if is_blank else cleaned


def _no_caption(caption: str) -> str:
    """The reason why a text does not describe a picture; empty if it may."""
    if " " not in caption and is_picture(caption):
        return "captions that are the name of a picture's file are skipped"
    numbers = _ATTRIBUTES.fullmatch(caption)
    if numbers and ("-1" in caption or len(re.findall(r"\d", caption)) >= _FEWEST_ATTRIBUTES):
        return "captions that are values of attributes, such as -1 1 1, are skipped"
    return ""


def _number(weight: object) -> float | None:
    try:
        number = float(weight) if isinstance(weight, int | float) else math.nan
    except OverflowError:
        number = math.nan
    return number if math.isfinite(number) and number > 0 else None


def unescape(text: str) -> str:
    """The text without inline HTML tags and with HTML entities decoded. They are decoded twice, as
    web pages often encode them twice."""
    if "&" not in text and "<" not in text:
        return text
    text = text[: 4 * 4096]
    return _TAG.sub(" ", html.unescape(html.unescape(text)))


def attributes_from(about: Mapping[str, object]) -> dict[str, str]:
    """The columns of numbers and short texts, except captions, as text. They are stored in each
    example's line; data/stored/column_files.py stores all columns."""
    attributes = {
        name: str(value)
        for name, value in about.items()
        if isinstance(value, str | int | float) and name.lower() not in _NOT_KEPT
        if name and len(name) <= _LONGEST and len(str(value)) <= _LONGEST
    }
    return dict(list(attributes.items())[:_MOST_COLUMNS])


def columns_from(about: Mapping[str, object]) -> tuple[Json, list[str]]:
    """The columns of a row that can be stored, and notes about the others. Numbers, texts and
    booleans are unchanged; lists and structs become JSON; other values become text."""
    columns: Json = {}
    notes = []
    for name, value in about.items():
        if not isinstance(name, str) or not name or value is None:
            continue
        if isinstance(value, bytes):
            notes.append(f"column {name:.60} holds bytes and is not kept")
            continue
        if isinstance(value, list | dict | tuple):
            value = json.dumps(value, ensure_ascii=False, default=str)
        elif not isinstance(value, bool | int | float | str):
            value = str(value)
        if isinstance(value, str) and len(value) > _LONGEST_CELL:
            notes.append(
                f"texts of column {name:.60} beyond {_LONGEST_CELL:,} letters are not kept"
            )
        else:
            columns[name] = value
    return columns, notes

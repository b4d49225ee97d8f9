"""DALL·E mini's caption normaliser, with which its models were trained.

Behaviour of `dalle-mini` 0.1.5, with chance replaced by a hash of the caption; no network.
"""

import functools
import gzip
import hashlib
import html
import importlib.metadata
import itertools
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

MAX_CHARACTERS = 4096  # the tokenizer took 49 s for a word of 10 MB
_PERSON = "<person>"
_PEOPLE = {"a person": 282265, "someone": 121194, "somebody": 12219}  # by frequency on Wikipedia
_KEPT = {"dot": ".", "quote": "'", "slash": "/"}
"""Marks that survive inside numbers, words and contractions. They are spelled in letters meanwhile,
exactly in dalle-mini's letters, because its hashtags split these too."""
_SIGNS = (
    "—-- ―-- „,, «<< »>> ‹< ›> ″'' ×x ÷/ ⁄/ •* ·* °deg ©(c) ®(r) €EUR £PS ¿? ¡! "
    "ßss ÆAE æae ŒOE œoe ØO øo ŁL łl ĐD đd ÐD ðd ÞTh þth ıi"
)
_SPELLED = str.maketrans(
    {
        **{sign[0]: sign[1:] for sign in _SIGNS.split()},
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys("‘’‛′", "'"),
        **dict.fromkeys("“”‟", '"'),
        "\u200b": " ",
    }
)


class Step(NamedTuple):
    """One operation on a caption."""

    name: str
    why: str
    apply: Callable[[str], str]


def make_normalizer(words: Sequence[str] | None = None) -> Callable[[str], str]:
    """The function from a caption to the input of dalle-mini's tokenizer: lower-case ASCII with one
    leading space, `" "` for the empty caption.

    `words`, most frequent first, are the words that hashtags are split into; by default those
    inside the package wordninja. Only the first 4,096 characters of a caption are read, before and
    after emoji are spelled out. With the optional package Unidecode (GPL) results equal
    dalle-mini's. Without it accents are dropped and common signs are spelled as there, but letters
    of other scripts (Cyrillic, Chinese, …) and rarer signs vanish, with a warning.

    Raises:
        ValueError: `words` is a single text.
    """
    steps = make_steps(make_splitter(_default_words() if words is None else words))

    def normalize(caption: str) -> str:
        for step in steps:
            caption = step.apply(caption)
        return f" {caption}"

    return normalize


def make_splitter(words: Sequence[str]) -> Callable[[str], str]:
    """The function that puts spaces into texts without, at the least total cost. The word of rank r
    costs ln(r). Where no words fit, letters stand alone.

    One pass over the text tries each length of word: O(letters × longest word).
    """
    if isinstance(words, str):
        raise ValueError(f"words is one text ({words[:20]!r}); pass a list, most frequent first")
    costs = {word: math.log(rank) for rank, word in enumerate(words, start=1)}
    longest = max(map(len, costs), default=1)

    def split(text: str) -> str:
        runs = re.findall("[a-zA-Z0-9']+", text)
        return " ".join(word for run in runs for word in _words_of(run, costs, longest))

    return split


def _words_of(run: str, costs: dict[str, float], longest: int) -> list[str]:
    lower = run.lower()
    cheapest, lengths = [0.0], [0]
    for end in range(1, len(run) + 1):
        best, best_length = math.inf, 1
        for length in range(1, min(longest, end) + 1):
            cost = cheapest[end - length] + costs.get(lower[end - length : end], math.inf)
            if cost < best:
                best, best_length = cost, length
        cheapest.append(best)
        lengths.append(best_length)
    return _rejoined(_pieces_from_the_end(run, lengths))


def _pieces_from_the_end(run: str, lengths: list[int]) -> Iterator[str]:
    end = len(run)
    while end:
        yield run[end - lengths[end] : end]
        end -= lengths[end]


def _rejoined(backwards: Iterator[str]) -> list[str]:
    """The words in reading order, with runs of digits as one number and 's joined to its word."""
    words: list[str] = []
    for piece in backwards:
        after = words[-1] if words else ""
        digits = piece[-1].isdigit() and after[:1].isdigit()
        if piece != "'" and (after == "'s" or digits):
            words[-1] = piece + after
        else:
            words.append(piece)
    return words[::-1]


def make_steps(split: Callable[[str], str]) -> tuple[Step, ...]:
    """The operations on a caption, in order; `split` splits hashtags."""
    import emoji
    import ftfy

    return (
        Step("first cut", "ftfy and emoji take 0.6 s a megabyte", _cut),
        Step("mojibake", "web pages were read in a wrong encoding", ftfy.fix_text),
        Step("entities", "they were escaped, often twice", _unescape_twice),
        Step("emoji", "their names would be lost in ASCII", _by_words(emoji.demojize)),
        Step("ascii", "the vocabulary is English", _ascii_speller()),
        Step("second cut", "an emoji's name has up to 80 letters", _cut),
        Step("case", "the vocabulary has no capitals", str.lower),
        Step("people", "Conceptual Captions hides names as <PERSON>", _name_people),
        Step("references", "Wikipedia's captions begin and end with [1]", _drop_references),
        Step("tags", "markup says nothing of the picture", _sub(r"<[^<][^<>]*>", " ")),
        Step("addresses", "nor do links", _sub(r"http\S+", "")),
        Step("thousands", "1,000 is one number", _join_thousands),
        Step("marks aside", "3.14, it's and 12/25 are no pauses", _set_marks_aside),
        Step("hyphens", "between words they are spaces", _sub(r"(\w)-(\w)", r"\1 \2")),
        Step("signs", "these are separate words", _sub(r"[$%&*/]", r" \g<0> ")),
        Step("hashtags", "they are words without spaces", _hashtags(split)),
        Step("noise", "remains of names in code", _sub(r"[#_\\]", " ")),
        Step("quotes", "all of them mean the same", _sub("[\"'`]", ' " ')),
        Step("punctuation", "one pause is like another", _sub(r"[][(){}.,:;!?|=+~/-]", ",")),
        Step("marks back", "numbers and contractions can no longer be split", _put_marks_back),
        Step(
            "repeats", "sooo; of letters up to three stay, as in viii", _sub(r"(\D)\1{3,}", r"\1")
        ),
        Step("runs of quotes", "an empty quotation says nothing", _merge('"', ' " ')),
        Step("runs of commas", "nor does a second pause", _merge(",", ", ")),
        Step("spaces", "one is enough", _sub(r"\s+", " ")),
        Step("ends", "no caption starts or ends with a pause", _trim),
    )


def _sub(pattern: str, replacement: str) -> Callable[[str], str]:
    return functools.partial(re.compile(pattern).sub, replacement)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text.strip()[:MAX_CHARACTERS]


def _unescape_twice(text: str) -> str:
    return html.unescape(html.unescape(text))


def _by_words(demojize: Callable[[str], str]) -> Callable[[str], str]:
    """The function that puts spaces around emoji before they are spelled out. A flood of joined
    emoji would take quadratic time, so it is truncated."""
    words = re.compile(r"\S{1,512}")
    return lambda text: words.sub(lambda word: demojize(word[0]), text)


def _ascii_speller() -> Callable[[str], str]:
    try:
        from unidecode import unidecode
    except ImportError:
        return _spell_common_signs
    return unidecode


def _spell_common_signs(text: str) -> str:
    apart = re.sub("[¼-¾⅐-⅞]", r" \g<0>", text)  # 2½ is not 21/2
    spelled = unicodedata.normalize("NFKD", apart).translate(_SPELLED)
    if any(letter.isalpha() and not letter.isascii() for letter in spelled):
        warnings.warn(
            "captions lose the letters that are not Latin ones; pip install Unidecode keeps them",
            stacklevel=2,
        )
    return spelled.encode("ascii", "ignore").decode()


def _name_people(text: str) -> str:
    """Spell several names in a row as people, and one as a person or so, chosen by a hash of the
    caption."""
    crowd = rf"{_PERSON}(?:[,\s]*(?:(?:and)+[,\s]*)?{_PERSON})+"
    text = re.sub(crowd, " people ", text)
    numbers = itertools.count()
    return re.sub(_PERSON, lambda _: f" {_someone(text, next(numbers))} ", text)


def _someone(text: str, number: int) -> str:
    digest = hashlib.blake2b(f"{number}\n{text}".encode(), digest_size=8).digest()
    draw = int.from_bytes(digest, "little") % sum(_PEOPLE.values())
    for name, bound in zip(_PEOPLE, itertools.accumulate(_PEOPLE.values()), strict=True):
        if draw < bound:
            return name
    raise AssertionError(draw)


def _drop_references(text: str) -> str:
    return re.sub(r"\[\d+\]\s*\Z", "", re.sub(r"\A\s*\[\d+\]", "", text))


def _join_thousands(text: str) -> str:
    for _ in range(2):  # one pass leaves 1,234,567 at 1234,567
        text = re.sub(r"(\d),(\d{3})", r"\1\2", text)
    return text


def _set_marks_aside(text: str) -> str:
    text = re.sub(r"(\w)\.(\w)", rf"\1{_spelled('dot')}\2", text)
    text = re.sub(r"'(?=(?:[stdm]|ll|re|ve)\b)", _spelled("quote"), text)
    return re.sub(r"(\d)/(\d)", rf"\1{_spelled('slash')}\2", text)


def _put_marks_back(text: str) -> str:
    for name, mark in _KEPT.items():
        text = text.replace(_spelled(name), mark)
    return text


def _spelled(mark: str) -> str:
    return f"xtokx{mark}xtokx"


def _hashtags(split: Callable[[str], str]) -> Callable[[str], str]:
    tag = re.compile(r"#(\w+)")
    return lambda text: tag.sub(lambda match: split(match[1]), text)


def _merge(mark: str, replacement: str) -> Callable[[str], str]:
    """The function that replaces runs of `mark` and spaces by `replacement`, in linear time for any
    run."""
    runs = re.compile(rf"[\s{mark}]+")
    return lambda text: runs.sub(lambda run: replacement if mark in run[0] else run[0], text)


def _trim(text: str) -> str:
    return text.strip().removesuffix(",").removeprefix(",").strip()


@functools.cache
def _default_words() -> tuple[str, ...]:
    """The word list inside wordninja, read without importing the module."""
    name = "wordninja/wordninja_words.txt.gz"
    path = Path(str(importlib.metadata.distribution("wordninja").locate_file(name)))
    return tuple(gzip.decompress(path.read_bytes()).decode().split())

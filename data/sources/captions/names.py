"""Captions from the names of files and folders. Names that are not UTF-8, as unpacked zips of other
countries leave them, are read in the encoding that is guessed from all of them."""

import os
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from data.sources.base import Captions
from data.sources.captions.encodings import decode, guess
from data.text.tokens import clean

_JOINERS = "\u200c\u200d"
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SAYS_NOTHING = re.compile(
    r"images?|img|dsc[nf]?|dcim|pict?|picture|photo|foto|bild|scan|screenshot|pxl|mvi|imgp|cimg|mg|"
    r"gopr|whatsapp|download|unnamed|untitled|copy|kopie|from|at|am|pm|"
    r"[a-z]{1,4}[0-9]{4,}|(?=.*[0-9])[0-9a-f]{8,}"  # P1010012, a hash
)
"""A word of a camera, phone or program, in a name that nobody chose."""
_PROGRAM = re.compile(
    r"whats ?app|screen[ _-]?shot|bildschirmfoto|capture d.écran|captura de pantalla|schermata|"
    r"cam ?scanner|fb_img|снимок экрана|スクリーンショット|截屏|屏幕截图|屏幕快照",
    re.IGNORECASE,
)
"""Names that programs give to pictures, in several words, in mixed case or in other languages."""
_PLACED = frozenset({"um", "à", "alle", "ore", "las", "a", "в"})
"""Words between a program's name and a time."""
_AFTER_AN = re.compile(r"[aeiou](?!(?<=u)(?:ni[^nm]|s[eu]|ti|r[aeio])|(?<=e)u|(?<=o)ne\b)", re.I)
"""A word of the spelling of "owl"; not of "unicorn", "user" or "euro"."""
_VERSION = re.compile(r"(\s+(final|copy|kopie|edited|v[0-9]+))+$")
_COUNTED = re.compile(r"\b([^\W\d_]{4,})[0-9]{1,3}\b")


def encoding_of_names(names: Iterable[str]) -> str:
    """The encoding of those names that are not UTF-8, guessed; empty if all are."""
    others = [os.fsencode(name) for name in names if not _is_utf8(name)]
    return guess(others) if others else ""


def decoded_name(name: str, encoding: str = "") -> str:
    """The name as text: Python holds the bytes of a name that is not UTF-8 as surrogates."""
    return name if _is_utf8(name) else decode(os.fsencode(name), encoding)[0]


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def words_in_name(name: str) -> str:
    """The words of a name in lower case, without numbers: Brown_Fish-01 is "brown fish". A web
    address's %20 is a blank."""
    name = unicodedata.normalize("NFC", unquote(name))  # macOS writes ä as a and two dots
    spaced = "".join(c if _is_of_word(c) else " " for c in _CAMEL.sub(" ", name))
    return clean(" ".join(w for w in spaced.split() if not w.isdecimal()).lower())


def _is_of_word(letter: str) -> bool:
    """True for letters and digits, and for the vowel signs and joiners that Indic, Thai and Persian
    words hold."""
    return letter.isalnum() or letter in _JOINERS or unicodedata.category(letter)[0] == "M"


def in_template(template: str, words: str) -> str:
    """The template with the words in place of {}: "a photo of a {}" of an owl says "an"."""
    if _AFTER_AN.match(words):
        template = re.sub(r"\b([Aa])(?= \{\})", r"\1n", template)
    return template.replace("{}", words)


def caption_from_name(file: str, encoding: str = "") -> Captions:
    """The words of a file's name, without its ending and the number of the file: flower9_final is
    "flower". Empty if they say nothing: numbers, hashes, or names that cameras and programs write,
    such as IMG_4711, P1010012 or "Screenshot (3)".

    `encoding`: of a name that is not UTF-8. Empty = guessed from this name."""
    file = decoded_name(file, encoding)
    stem = os.path.splitext(file.rpartition("/")[2])[0]
    words = words_in_name(_UUID.sub("", stem))
    words = _COUNTED.sub(r"\1", _VERSION.sub("", words))
    named = unicodedata.normalize("NFC", stem)
    is_program, rest = bool(_PROGRAM.search(named)), words_in_name(_PROGRAM.sub(" ", named))
    is_said = any(
        not (_SAYS_NOTHING.fullmatch(word) or (is_program and word in _PLACED))
        for word in (rest if is_program else words).split()
    )
    return ((words, 1.0),) if is_said else ()


def count_named(files: Iterable[str]) -> int:
    """The number of files with a caption in their names."""
    return sum(map(bool, map(caption_from_name, files)))

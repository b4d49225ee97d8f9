"""Captions from the names of files and folders."""

import os
import re

from data.sources.base import Captions
from data.text import clean

_BETWEEN = re.compile(r"[\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NUMBER = re.compile(r"^[0-9]+$")


def words_of(name: str) -> str:
    """The words of a name in lower case, without numbers: Brown_Fish-01 is "brown fish"."""
    words = _BETWEEN.split(_CAMEL.sub(" ", name))
    return clean(" ".join(w for w in words if w and not _NUMBER.match(w)).lower())


def caption_from_name(file: str) -> Captions:
    """The words of a file's name, without its ending; none if the name is numbers alone."""
    words = words_of(os.path.splitext(file.rpartition("/")[2])[0])
    return ((words, 1.0),) if words else ()

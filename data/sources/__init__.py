"""Sources of captioned pictures in all layouts: one file per kind, and their table in kinds.py."""

from data.sources.base import Captions, Example, Source, printable
from data.sources.config import PLAIN, ReadingConfig
from data.sources.opening import open_source

__all__ = [
    "PLAIN",
    "Captions",
    "Example",
    "ReadingConfig",
    "Source",
    "open_source",
    "printable",
]

"""Sources of captioned pictures in all layouts.

opening.py, kinds.py and layouts.py recognise what a user names. A layout has each picture beside
its caption (pairs/), or lists both in a table (tables/). files/ finds files in folders, zips, tars
and at addresses; captions/ reads what texts and names say.
"""

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

"""Settings of reading sources: kind, place of the captions, conversion to squares."""

from dataclasses import dataclass
from typing import Literal

from PIL import ImageColor

from data.pictures.squares import Fit


@dataclass(frozen=True)
class ReadingConfig:
    """The settings of reading that data.encode and vqgan.train share."""

    kind: str = ""
    """Kind of source, by a name of docs/layouts.md, such as folder, tar or classes; by default it
    is recognised."""
    pictures: str = ""
    """Folder of the pictures that a table names, if they are not beside it. Paths in the table may
    be absolute or of another machine, because only their last parts are compared."""
    captions: Literal["beside", "names", "inside"] = "beside"
    """Where captions are: in files or columns, in the names of the picture files (Brown_Fish-01.png
    says "brown fish"), or inside these files, where Lightroom, digiKam and others write them."""
    caption_column: str = ""
    """Column or JSON key of the captions; by default the known names are tried, in the order of
    docs/layouts.md."""
    caption_template: str = "a photo of a {}"
    """Caption of a picture in a folder named by its class; {} is the name of the folder."""
    caption_encoding: str = ""
    """Encoding of captions that are neither UTF-8 nor UTF-16, such as cp1250 or gbk; by default it
    is guessed from them, and printed."""
    splits: Literal["own", "none"] = "own"
    """own = keep the source's own splits (train, val, restval …); none = split all pictures
    again."""
    fit: Fit = "auto"
    """Conversion of a picture to a square: crop to its middle, pad with the background, stretch, or
    auto: add bars in the colour of the picture's backdrop, so that drawings keep their ends; crop
    pictures without a plain backdrop, such as most photographs."""
    background: str = "white"
    """Colour behind transparent pictures, and around those of fit=pad, by name or as #rrggbb."""
    truncated: Literal["keep", "skip"] = "skip"
    """keep = use the existing part of truncated JPEGs; skip = skip them."""
    max_bad_fraction: float = 0.5
    """Share of unusable pictures above which reading stops, after the first 200 or all; 1 =
    never."""

    def __post_init__(self) -> None:
        if "{}" not in self.caption_template:
            raise ValueError(
                f"caption_template {self.caption_template!r:.60} has no {{}} for the folder's name"
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction {self.max_bad_fraction} is not between 0 and 1")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(
                f"background {self.background!r:.60} is not a colour; try white or #rrggbb"
            ) from None
        _check_encoding(self.caption_encoding)


def _check_encoding(name: str) -> None:
    """Raise ValueError unless this is the name of an encoding of texts; rot13 and hex are not."""
    try:
        b"a".decode(name or "utf-8")
    except UnicodeDecodeError:
        pass  # an encoding in which "a" is not a text
    except (LookupError, ValueError):
        raise ValueError(
            f"caption_encoding {name!r:.60} is not an encoding of texts; try cp1250, gbk …"
        ) from None


PLAIN = ReadingConfig()

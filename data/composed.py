"""Pictures that say what colours, numbers and "and" mean: "a blue cat", "three apples", "a cat and
a rocket".

python -m data.composed --out pictures/composed

They are composed from the training drawings of python -m data.artists. Held out are pairs of
thing and colour, of thing and number, and of two things: the splits colour, number and pair.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from common.files import check_free, new_folder
from common.pixels import as_png
from common.split_names import TRAIN
from data.builtin.artist_config import (
    LICENSES,
    MARKER,
    ArtistsConfig,
    describe,
    digest_of_code,
    find_sets,
)
from data.builtin.artist_sets import Drawing, join, licenses
from data.builtin.artist_splits import rasterise_and_split
from data.builtin.artist_things import choose
from data.builtin.composing import compose
from data.builtin.drawings import read_table
from data.builtin.picture_tars import DescribedPicture, is_made, write_tars
from data.stored.folders import counts_of, write_json

FIRST_IN_HELP = ("subset", "out")
"""Settings that --help begins with."""
RECIPE = tuple(
    Path(__file__).parent / name
    for name in ("composed.py", "builtin/composing.py", "builtin/colour_words.py")
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
    description = {**describe(config, sets), "composed": digest_of_code(RECIPE)}
    out = Path(config.out)
    if not is_made(out / MARKER, description):
        check_free(out)
        drawings = trained_on(choose(join(sets, read_table()), config.subset))
        with new_folder(out) as folder:
            license_of = {icon_set.style: icon_set.license for icon_set in sets}
            counts = write_tars(folder, described(drawings, config.image_size, license_of))
            (folder / LICENSES).write_text(licenses(sets), encoding="utf-8")
            write_json(folder / MARKER, {**description, "counts": counts})
    parts = ", ".join(f"{count} {split}" for split, count in counts_of(out / MARKER).items())
    print(f"{out}: {parts}")


def trained_on(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings that data.artists does not hold out."""
    _, splits = rasterise_and_split(drawings, 64)
    return [drawing for drawing in drawings if splits[drawing.key] == TRAIN]


def described(
    drawings: Sequence[Drawing], side: int, license_of: Mapping[str, str]
) -> Iterator[DescribedPicture]:
    """(key, PNG, captions and more) of each composed picture; `license_of` is by style."""
    from tqdm import tqdm

    pictures = compose(drawings, side)
    for picture in tqdm(pictures, desc="composing", unit=" pictures", file=sys.stderr):
        png = as_png(Image.fromarray(picture.pixels))
        yield picture.key, png, {**picture.about, "license": license_of[picture.about["style"]]}


if __name__ == "__main__":
    from command_line.parser import run

    run(
        main,
        ComposedConfig,
        prog="python -m data.composed",
        about=__doc__ or "",
        first=FIRST_IN_HELP,
    )

"""Make a data set of the same things by eight artists: pictures, captions and held-out splits.

python -m data.artists

data/builtin/things.json.gz has the drawings of about a hundred everyday things; all come from eight
npm packages, fetched with `npm pack` or in a folder that holds them. Names, keywords, groups and
skin tones come from the table data/builtin/openmoji.tsv.gz. The tars look like anybody's, with the
licence of each picture.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from common.files import check_free, new_folder
from common.json_files import Json, read_json
from data.builtin.artist_config import (
    LICENSES,
    MARKER,
    ArtistsConfig,
    describe,
    find_sets,
)
from data.builtin.artist_sets import (
    Drawing,
    IconSet,
    join,
    licenses,
)
from data.builtin.artist_splits import rasterise_and_split
from data.builtin.artist_things import choose
from data.builtin.artist_words import common_names
from data.builtin.drawings import read_table
from data.builtin.openmoji_splits import Emoji
from data.builtin.picture_tars import DescribedPicture, is_made, write_tars
from data.builtin.wording import plural, with_article
from data.stored.folders import counts_of, write_json

FIRST_IN_HELP = ("subset", "out")
"""Settings that --help begins with."""


def main(config: ArtistsConfig) -> None:
    """Write the data set unless it exists, and print the number of pictures in each split."""
    if not 8 <= config.image_size <= 1024:
        raise ValueError(f"image_size {config.image_size} is not between 8 and 1024 pixels")
    sets = find_sets(config)
    out, description = Path(config.out), describe(config, sets)
    if not is_made(out / MARKER, description):
        check_free(out)
        write_pictures(out, sets, description)
    counts = ", ".join(f"{count} {split}" for split, count in counts_of(out / MARKER).items())
    num_concepts = read_json(out / MARKER).get("num_concepts")
    print(f"{out}: {num_concepts} things by {len(sets)} artists: {counts}")


def write_pictures(out: Path, sets: Sequence[IconSet], description: Json) -> None:
    """Rasterise every chosen drawing and write the tars with captions, splits and licences."""
    drawings = choose(join(sets, read_table()), description["subset"])
    pictures, splits = rasterise_and_split(drawings, description["image_size"])
    with new_folder(out) as folder:
        license_of = {icon_set.style: icon_set.license for icon_set in sets}
        counts = write_tars(folder, described(drawings, pictures, splits, license_of))
        (folder / LICENSES).write_text(licenses(sets), encoding="utf-8")
        concepts = len({drawing.emoji.concept for drawing in drawings})
        write_json(folder / MARKER, {**description, "num_concepts": concepts, "counts": counts})


def described(
    drawings: Sequence[Drawing],
    pictures: Mapping[str, bytes],
    splits: Mapping[str, str],
    license_of: Mapping[str, str],
) -> Iterator[DescribedPicture]:
    """(key, PNG, captions and more) of each drawing; `license_of` is by style, the rest by key."""
    keywords = own_keywords([drawing.emoji for drawing in drawings])
    names = {drawing.emoji.name for drawing in drawings}
    for drawing in drawings:
        captions = captions_of(drawing, keywords[drawing.emoji.hexcode], names)
        about = {
            "captions": [text for text, _ in captions],
            "weights": [round(weight, 6) for _, weight in captions],
            "split": splits[drawing.key],
            "concept": drawing.emoji.concept,
            "style": drawing.style,
            "tone": drawing.emoji.tone,
            "group": drawing.emoji.group,
            "subgroup": drawing.emoji.subgroup,
            "hexcode": drawing.emoji.hexcode,
            "license": license_of[drawing.style],
        }
        yield drawing.key, pictures[drawing.key], about


def own_keywords(emojis: Sequence[Emoji]) -> dict[str, tuple[str, ...]]:
    """Hexcode → synonyms: keywords and parts of names that no other thing here has."""
    things: dict[str, set[str]] = defaultdict(set)
    for emoji in emojis:
        for word in (emoji.name, *emoji.tags):
            things[word].add(emoji.concept)
    return {
        emoji.hexcode: tuple(
            word
            for word in emoji.tags
            if not emoji.tone and things[word] == {emoji.concept} and word != emoji.name
        )
        for emoji in emojis
    }


def captions_of(
    drawing: Drawing, synonyms: Sequence[str], things: Container[str]
) -> list[tuple[str, float]]:
    """Weighted captions; the first is the exam's prompt. Three quarters name the style. `things`
    are the names of all things that are drawn."""
    style, name = drawing.style, drawing.emoji.name
    articled = with_article(drawing.emoji, name)
    captions = [
        (f"{articled}, {style} style", 0.3),
        (f"{name}, {style} style", 0.2),
        (f"{articled} in {style} style", 0.05),
        (f"{style} {name}", 0.05),
        (name, 0.15),
        (articled, 0.1),
    ]
    other = [*synonyms, *plural(name)] or [name]
    captions += [(f"{word}, {style} style", 0.1 / len(other)) for word in other]
    captions += [(word, 0.05 / len(other)) for word in other]
    typed = common_names(name, things)
    for word in typed:
        named = with_article(drawing.emoji, word)
        captions += [(f"{named}, {style} style", 0.2 / len(typed)), (word, 0.15 / len(typed))]
        captions += [(named, 0.15 / len(typed))]
    total = sum(weight for _, weight in captions)
    merged: dict[str, float] = {}
    for text, weight in captions:
        merged[text] = merged.get(text, 0.0) + weight / total
    return list(merged.items())


if __name__ == "__main__":
    from command_line.parser import run

    run(
        main, ArtistsConfig, prog="python -m data.artists", about=__doc__ or "", first=FIRST_IN_HELP
    )

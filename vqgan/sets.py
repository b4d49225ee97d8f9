"""The pictures that python -m vqgan.train reads, by split."""

import sys
from dataclasses import dataclass, field

import numpy as np

from common.split_names import GALLERY, TRAIN
from data.encoding.splits import split_of
from data.pictures.reading import describe_skipped, read_pictures
from data.sources import ReadingConfig, open_source
from vqgan.pictures import Pictures

HELD_OUT = 0.05


@dataclass(frozen=True)
class PicturesConfig(ReadingConfig):
    """The training pictures."""

    source: tuple[str, ...] = field(default=("pictures/all",), metadata={"nargs": "*"})
    """One or several sources of pictures in any layout of docs/layouts.md: folders, tars, tables,
    saved data sets; captions are not needed. All pictures stay in memory, at 12 KB for one of
    64 × 64."""


def read_sets(
    data: PicturesConfig, image_size: int
) -> tuple[dict[str, Pictures], list[tuple[str, str]]]:
    """(split → all pictures of a source, (name, reason) of each skipped one). `gallery` pictures
    are not read.

    Raises:
        ValueError: no picture can be read, or none is left to train on.
    """
    source = open_source(data.source, need_captions=False, config=data)
    print(source.describe(), flush=True)
    sets: dict[str, list[np.ndarray]] = {TRAIN: []}
    skipped = []
    for reading in read_pictures(source, image_size, config=data):
        if reading.pixels is None or reading.example is None:
            skipped.append((reading.name, reading.problem))
            continue
        split = reading.example.split or split_of(reading.pixels, HELD_OUT)
        sets.setdefault(split, []).append(reading.pixels)
    sets.pop(GALLERY, None)
    warnings = source.warnings() + ([describe_skipped(skipped, len(source))] if skipped else [])
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not sets[TRAIN]:
        counts = ", ".join(f"{len(of_set):,} {name}" for name, of_set in sets.items() if of_set)
        raise ValueError(
            f"{', '.join(data.source)} leaves no picture to train on: of {len(source):,} are "
            f"usable {counts or 'none'}; --data.splits=none divides them again"
        )
    return {name: np.stack(pictures) for name, pictures in sets.items()}, skipped

"""The picture grid of evaluate: held-out prompts, and the file that it is written to."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.exams.exam import TRAIN, Exam
from drawing.opening import Checkpoint
from drawing.outputs import check_grid, check_is_png

OFFENSIVE = ("middle finger", "ok hand", "pinched fingers", "sign of the horns", "thumbs down")
"""Words of prompts that are omitted from the grid."""
GRID_PICTURES, GRID_FILE = 30, "held_out.png"
Grid = tuple[list[str], np.ndarray]
"""(prompts, a picture of each [prompt, 1, y, x, 3])."""


def place_of_grid(checkpoint: Checkpoint, grid: str | None) -> Path | None:
    """The grid's file: `grid`, or by default a file in the run's folder. None if `grid` is empty,
    or if the default cannot be written.

    Raises:
        ValueError: `grid` cannot be written.
    """
    if grid:
        check_is_png(Path(grid), "grid")
        check_grid(Path(grid), "--grid")
        return Path(grid)
    path = checkpoint.folder / GRID_FILE
    if grid is not None or checkpoint.records is None:
        return None
    try:
        check_grid(path, "--grid")
    except ValueError as error:
        print(f"no grid of held-out prompts: {error}", file=sys.stderr)
        return None
    return path


def make_grid(exam: Exam, drawn: Mapping[str, np.ndarray]) -> Grid:
    """The first picture of each prompt, as many of each split as fit well on a page. Labels mark
    training captions."""
    share = GRID_PICTURES // len(drawn)
    prompts, pictures = [], []
    for split, of_split in drawn.items():
        asked = exam.prompts(split)
        inoffensive = [
            i for i, prompt in enumerate(asked) if not any(w in prompt for w in OFFENSIVE)
        ]
        mark = " (trained on)" if split == TRAIN else ""
        prompts += [asked[i] + mark for i in inoffensive[:share]]
        pictures.append(of_split[inoffensive[:share], :1])
    return prompts, np.concatenate(pictures)

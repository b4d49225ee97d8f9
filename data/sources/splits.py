"""Names of splits that others use, as ours: `train` is trained on, `gallery` only looked at, and
each other one is held out under its name."""

from typing import Any

from data.text import clean

_OTHERS = {
    "train": ("train", "training", "trn", "restval", "trainval", "0"),
    "validation": ("validation", "valid", "val", "dev", "eval", "1"),
    "test": ("test", "testing", "tst", "minitest", "2"),
    "held_out": ("held_out", "heldout", "held-out", "holdout"),
}
SPLITS = {other: ours for ours, others in _OTHERS.items() for other in others}
"""In any letter case, with train2017's year left away; CelebA's 0, 1 and 2 among them."""


def split_from(value: Any) -> str:
    """Our name of a split that a column, file or folder names; nothing for an empty one."""
    if value is None or isinstance(value, bool | float) or value == "":
        return ""
    name = clean(str(value))
    return SPLITS.get(
        name.lower(), SPLITS.get(name.lower().rstrip("0123456789").rstrip("_-"), name)
    )


def is_split(name: str) -> bool:
    """Whether a folder's name is that of a split."""
    return not name.isdecimal() and split_from(name) in _OTHERS

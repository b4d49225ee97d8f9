"""Names of splits in other data sets → ours.

`train` is trained on, `gallery` is only compared with, and each other split is held out under its
name.
"""

from collections.abc import Sequence

from data.text.tokens import clean

_OTHERS = {
    "train": ("train", "training", "trn", "restval", "trainval", "0"),
    "validation": ("validation", "valid", "val", "dev", "eval", "1"),
    "test": ("test", "testing", "tst", "minitest", "2"),
    "held_out": ("held_out", "heldout", "held-out", "holdout"),
}
SPLITS = {other: ours for ours, others in _OTHERS.items() for other in others}
"""Names in lower case, without a year as in train2017; CelebA's 0, 1 and 2 are among them."""


def split_from(value: object) -> str:
    """Our name of the split that a column, file or folder names; empty for an empty one."""
    if value is None or isinstance(value, bool | float) or value == "":
        return ""
    name = clean(str(value))
    return SPLITS.get(
        name.lower(), SPLITS.get(name.lower().rstrip("0123456789").rstrip("_-"), name)
    )


def is_split(name: str) -> bool:
    """True if a folder has the name of a split."""
    return not name.isdecimal() and split_from(name) in _OTHERS


def split_of_path(name: str, by_file: bool = False) -> str:
    """The split that a folder's name says: train2017/, val/; if asked, or a word of the file's own:
    captions_val2017.json."""
    *folders, last = name.split("/")
    words = last.rpartition(".")[0].replace("-", "_").split("_") if by_file else []
    splits = [split_from(part) for part in (*folders, *words) if is_split(part)]
    return splits[0] if splits else ""


def splits_of(names: Sequence[str], by_file: bool = False) -> list[str]:
    """The splits of files whose paths all say one, and not all the same; else none."""
    splits = [split_of_path(name, by_file) for name in names]
    return splits if all(splits) and len(set(splits)) > 1 else []

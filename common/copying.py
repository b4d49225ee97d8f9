"""Copies of untrusted folders; imports no other file of Pastel.

A link in such a folder can point to any file of this machine. A plain copy would put that file into
a run, or into a release that is given away.
"""

import os
import shutil
from pathlib import Path


def copy_folder(source: Path, target: Path, within: Path | None = None) -> None:
    """Copy the files of `source` into `target`, which may exist. Links are followed if they stay
    inside `within`, by default `source`, or inside the hub's cache that it is a part of.

    Raises:
        ValueError: names a link that leads out, or an entry that is neither file nor folder.
    """
    within = source if within is None else within
    if source != within:
        check_inside(source, within)
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        check_inside(entry, within)
        if entry.is_dir():
            if entry.is_symlink():
                raise ValueError(f"{entry} is a link to a folder; put the folder itself there")
            copy_folder(entry, target / entry.name, within)
        else:
            copy_file(entry, target / entry.name, within)


def copy_file(source: Path, target: Path, within: Path) -> None:
    """Copy one file's content. Raises ValueError as `copy_folder` does."""
    check_inside(source, within)
    if not source.is_file():
        raise ValueError(f"{source} is not a file; only files and folders are copied")
    shutil.copyfile(source, target)


def check_inside(path: Path, within: Path) -> None:
    """Raise ValueError for a link that leads out of the folder `within`."""
    real = os.path.realpath(path)
    roots = [os.path.realpath(within)]
    # huggingface_hub stores the targets of a snapshot's links in blobs/ beside the snapshots.
    blobs = Path(roots[0]).parent.parent / "blobs"
    if Path(roots[0]).parent.name == "snapshots" and not blobs.is_symlink():
        roots.append(str(blobs))
    if not any(Path(real).is_relative_to(root) for root in roots):
        raise ValueError(
            f"{path} is a link that leads out of {within}, to {real}; "
            "if you trust it, replace the link by its target"
        )

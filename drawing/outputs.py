"""Output files of drawing: checked before drawing, and never among the pictures of other people."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from common.files import check_writable
from data.pictures.grids import is_drawn
from data.records import open_records

MAX_LOOKED_AT = 10_000
"""Most entries of a folder that are searched for other people's pictures."""
OTHER_PICTURES = {".svg", ".heic", ".heif", ".avif", ".jxl", ".mp4", ".mov"}
RUN_FILES = ("config.yaml", "config.json")


def output_paths(out: str) -> tuple[Path, Path]:
    """(the grid's file, the folder of the single pictures).

    Raises:
        ValueError: `out` names a picture file that is not a PNG, or is another file.
    """
    path = Path(out)
    check_is_png(path, "out", or_folder=True)
    if path.suffix.lower() != ".png" or path.is_dir():
        if path.is_file():
            raise ValueError(f"out {path} is a file; name a .png file or a folder")
        return path / "grid.png", path
    return path, path.with_suffix("")


def check_is_png(path: Path, flag: str, or_folder: bool = False) -> None:
    """Raise ValueError if the name ends like another picture format."""
    ending = path.suffix.lower()
    is_picture = ending in Image.registered_extensions() or ending in OTHER_PICTURES
    if path.is_dir() or ending == ".png" or (or_folder and not is_picture):
        return
    other = " or a folder" if or_folder else ""
    raise ValueError(f"{flag} {path}: pictures are written as PNG; name a .png file{other}")


def make_room(grid_path: Path, folder: Path, sources: Sequence[str] = ()) -> None:
    """Make the folders, and check that files can be written, before hours of drawing. `sources` are
    the pictures that the model was trained on.

    Raises:
        ValueError: they cannot be written, or would mix with a model's weights, or replace or mix
            with pictures that were not drawn here.
    """
    if grid_path.is_dir():
        raise ValueError(f"out {grid_path} is a folder, but the grid must be a file")
    for path in (grid_path, folder):
        for source in sources:
            _check_outside(path, source)
    if (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds a model's weights; name another --out for the pictures")
    if (other := next(_pictures_of_others(folder), None)) is not None:
        raise ValueError(
            f"{folder} holds pictures that generate.py did not draw, such as {other}; the "
            f"drawn ones would be mistaken for them: name another --out"
        )
    check_grid(grid_path, "--out")
    check_writable(folder / "000.png", "--out")


def sources_of(records: str | None) -> list[str]:
    """The sources of the records' pictures; empty if the records are missing."""
    with contextlib.suppress(ValueError, OSError):
        return open_records(records).sources if records else []
    return []


def check_grid(path: Path, flag: str) -> None:
    """Make the grid's folder. Raises ValueError if a grid may not be written there."""
    if path.is_file() and path.stat().st_size and not is_drawn(path):
        raise ValueError(
            f"{path} exists already, and was not drawn by this program; name another {flag}"
        )
    check_writable(path, flag)


def _check_outside(path: Path, source: str) -> None:
    """Raise ValueError for a place among the training pictures: the next training on that folder
    would include the drawn ones."""
    if not Path(source).is_dir():
        return
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source))
    if inside:
        raise ValueError(
            f"{path} is among the pictures in {source} that the model was trained on; name "
            f"another --out"
        )


def _pictures_of_others(folder: Path) -> Iterator[Path]:
    """Yield the pictures and tars below a folder that Pastel did not draw."""
    endings = set(Image.registered_extensions()) | OTHER_PICTURES | {".tar"}
    entries = (
        Path(parent, name)
        for parent, folders, names in os.walk(folder)
        if _enter(folders, names)
        for name in names
    )
    for path in itertools.islice(entries, MAX_LOOKED_AT):
        if path.suffix.lower() in endings and not is_drawn(path):
            yield path


def _enter(folders: list[str], names: list[str]) -> bool:
    """True if a folder may hold other people's pictures: runs and releases hold their own grids."""
    if any(name in names for name in RUN_FILES):
        folders.clear()
        return False
    return True

"""Places for drawn pictures: checked before drawing, never among pictures of others."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from data.grids import is_drawn
from data.records import open_records
from files import check_writable

MAX_LOOKED_AT = 10_000
"""Most entries of a folder that are checked for pictures of others."""
OTHER_PICTURES = {".svg", ".heic", ".heif", ".avif", ".jxl", ".mp4", ".mov"}
RUN_FILES = ("config.yaml", "config.json")


def output_paths(out: str) -> tuple[Path, Path]:
    """The grid's file, and the folder of the single pictures.

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
    """Raise ValueError for a name with the ending of another picture format."""
    ending = path.suffix.lower()
    is_picture = ending in Image.registered_extensions() or ending in OTHER_PICTURES
    if path.is_dir() or ending == ".png" or (or_folder and not is_picture):
        return
    other = " or a folder" if or_folder else ""
    raise ValueError(f"{flag} {path}: pictures are written as PNG; name a .png file{other}")


def make_room(grid_path: Path, folder: Path, sources: Sequence[str] = ()) -> None:
    """Make the folders and check that files can be written, before hours of drawing. `sources`: the
    pictures that the model was trained on.

    Raises:
        ValueError: they cannot be written, or would replace or mix with pictures that were not
            drawn here.
    """
    if grid_path.is_dir():
        raise ValueError(f"out {grid_path} is a folder, but the grid is to be a file of that name")
    for path in (grid_path, folder):
        for source in sources:
            _check_outside(path, source)
    if (other := next(_pictures_of_others(folder), None)) is not None:
        raise ValueError(
            f"{folder} holds pictures that generate.py did not draw, such as {other}; drawn ones "
            f"would be taken for them: name another --out"
        )
    check_grid(grid_path, "--out")
    check_writable(folder / "000.png", "--out")


def sources_of(records: str | None) -> list[str]:
    """The pictures that token records were made of, if they still exist."""
    with contextlib.suppress(ValueError, OSError):
        return open_records(records).sources if records else []
    return []


def check_grid(path: Path, flag: str) -> None:
    """Raise ValueError unless a grid may be written there; its folder is made."""
    if path.is_file() and path.stat().st_size and not is_drawn(path):
        raise ValueError(f"{path} is there and was not drawn by this program; name another {flag}")
    check_writable(path, flag)


def _check_outside(path: Path, source: str) -> None:
    """Raise ValueError for a place among the training pictures: training on the source again would
    train on the drawn ones."""
    if not Path(source).is_dir():
        return
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source))
    if inside:
        raise ValueError(
            f"{path} is among the pictures in {source} that the model was trained on; name "
            f"another --out"
        )


def _pictures_of_others(folder: Path) -> Iterator[Path]:
    """Pictures and tars below a folder that were not drawn here, in the order in which they are
    found."""
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
    """True if a folder may hold pictures of others: a run or a release holds its own grids."""
    if any(name in names for name in RUN_FILES):
        folders.clear()
        return False
    return True

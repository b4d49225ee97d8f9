"""SHA256SUMS of a release, and of a run's tokenizer and VQGAN, in the format of `sha256sum -c`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text

SUMS_FILE = "SHA256SUMS"
MOST_BYTES = 1 << 20
"""Largest size of the list."""


def write_sums(folder: Path, below: Sequence[str] = (".",)) -> None:
    """Write the SHA-256 of every file of a folder, or of the folders `below` in it."""
    files = (path for name in below for path in (folder / name).rglob("*"))
    paths = sorted(path for path in files if path.is_file() and path.name != SUMS_FILE)
    lines = [f"{_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    write_text(folder / SUMS_FILE, "".join(lines))


def check_sums(folder: Path) -> None:
    """Compare the files of a folder with its list; without a list nothing is checked.

    Raises:
        ValueError: a file is missing or was changed, or the list is damaged.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        return
    for number, line in enumerate(_lines(path), 1):
        wanted, _, name = line.partition("  ")
        inside = Path(name)
        if len(wanted) != 64 or not name or inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{path}: line {number} is not a checksum: {line!r:.80}")
        if not (folder / inside).is_file():
            raise ValueError(
                f"{folder / inside} is missing, which {path} lists; put it back, or download it "
                "again"
            )
        if (actual := _sum(folder / inside)) != wanted:
            raise ValueError(
                f"{folder / inside} was changed: its SHA-256 is {actual[:16]}…, and {path} says "
                f"{wanted[:16]}…; put the file back or download it again, or remove {SUMS_FILE} if "
                "the change is meant"
            )


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return data.decode().splitlines()
    except ValueError as error:
        raise ValueError(f"{path} is not a list of checksums: {error}") from None


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

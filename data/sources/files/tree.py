"""The files of a folder, linked folders included, by the endings of their names."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from data.sources.base import Unused

PICTURE_ENDINGS = (
    *("jpg", "jpeg", "png", "webp", "jfif", "jpe", "bmp", "gif", "tif", "tiff", "avif"),
    *("jp2", "j2k", "jpx", "jpf", "heic", "heif", "hif", "ppm", "pgm", "pbm", "pnm", "apng"),
    *("pjpeg", "pjp", "jfi", "jif", "mpo", "avifs", "dib", "svg", "svgz"),
)
UNREAD_PICTURES = (
    *("jxl", "psd", "eps", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
    *("xcf", "exr", "hdr", "ico", "tga", "jxr"),
)
"""Unsupported formats of pictures. Each file is counted and named as unreadable."""
CAPTION_ENDINGS = ("json", "txt", "caption")
TABLE_ENDINGS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet", "txt", "token")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_OURS = (
    frozenset({"config.yaml", "environment.json"}),
    frozenset({"records.json", "examples.jsonl"}),
    frozenset({"config.json", "model.safetensors"}),
)
"""Files by which a folder of a run, of records or of a model is known. Whoever writes these among
the pictures does not train on them: a run's grids and metrics would change its own data."""
_MAX_FOLDERS = 1 << 20  # links into each other can make more folders than there are


def is_picture(name: str) -> bool:
    """True if a name has the ending of a picture, readable or not."""
    return ending_of(name) in PICTURE_ENDINGS + UNREAD_PICTURES


def ending_of(name: str) -> str:
    """The text after the last dot, in lower case; empty for a name without a dot."""
    stem, dot, ending = last_part(name).rpartition(".")
    return ending.lower() if dot and stem else ""


def last_part(name: str) -> str:
    """A name without its folders."""
    return name.rpartition("/")[2]


def is_hidden(part: str) -> bool:
    """True for a part of a path that programs made: macOS's ._0001.jpg and __MACOSX, a notebook's
    .ipynb_checkpoints, thumbnails of a NAS in @eaDir, a bin of deleted files."""
    return part.startswith((".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE"))


@dataclass
class Tree:
    """The files below a folder by their relative names, sorted."""

    folder: Path
    names: list[str]
    unused: Unused

    @cached_property
    def pictures(self) -> list[str]:
        """Names of pictures, by their ending or, if that is unknown, by their first bytes."""
        return [name for name in self.names if is_picture(name) or self._looks_like_one(name)]

    @cached_property
    def found(self) -> set[str]:
        """The same names as a set."""
        return set(self.names)

    def _looks_like_one(self, name: str) -> bool:
        if ending_of(name) in OTHERS:
            return False
        try:
            head = self.read(name, 16)
        except OSError:
            return False
        return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")

    def ending(self, *endings: str) -> list[str]:
        """The names of files with one of these endings."""
        return [name for name in self.names if ending_of(name) in endings]

    def path(self, name: str) -> Path:
        """The path of the file, or of the archive that contains it."""
        return self.folder / name

    def paths(self, names: Iterable[str]) -> list[Path]:
        """The paths of these files, each once."""
        return list(dict.fromkeys(map(self.path, names)))

    def open(self, name: str) -> BufferedIOBase:
        """The file, opened for reading bytes."""
        return self.path(name).open("rb")

    def size(self, name: str) -> int:
        """The size of the file in bytes."""
        return self.path(name).stat().st_size

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of the file; of a longer one, `limit` + 1 bytes."""
        with self.open(name) as file:
            return file.read(limit + 1)


ARCHIVES = ("tar", "zip", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar")
VIDEOS = ("mp4", "mov", "avi", "mkv", "webm", "m4v", "3gp", "mpg", "mpeg")
SPREADSHEETS = ("xlsx", "xls", "ods", "numbers")
_OF_OTHERS = (
    *(*ARCHIVES, *VIDEOS, *SPREADSHEETS),
    *("md", "tfrecord", "arrow", "npy", "npz", "h5", "hdf5", "mat", "mdb", "rec", "mds"),
    *("py", "sh", "html", "htm", "xml", "yaml", "yml", "pkl", "pt", "log", "lock", "ini", "db"),
    *("mp3", "wav", "pdf", "doc", "docx"),
)
OTHERS = frozenset((*_OF_OTHERS, *CAPTION_ENDINGS, *TABLE_ENDINGS))
"""Endings of files that are never pictures, and are not opened to check."""


def walk(folder: Path) -> Tree:
    """All files below a folder. Hidden files, pipes, sockets and folders that this program wrote
    are skipped. Linked folders are followed once, so that cycles end. Broken links are kept, and
    reported as unreadable."""
    if (tree := getattr(folder, "tree", None)) is not None:  # a folder at an address
        return cast(Tree, tree())
    unused = Unused()
    names = [os.path.relpath(path, folder) for path in _walk(folder, unused)]
    return Tree(folder, [name.replace(os.sep, "/") for name in names], unused)


def among(pictures: Sequence[Path]) -> Tree:
    """These pictures, and the captions and tables in their folders."""
    folders = list(dict.fromkeys(file.absolute().parent for file in pictures))
    folder, unused = Path(os.path.commonpath(folders)), Unused()
    chosen = {file.absolute() for file in pictures}
    for here in folders:
        every = [file for file in here.iterdir() if not is_hidden(file.name)]
        others = [file for file in every if is_picture(file.name) and file not in chosen]
        of_others = {file.stem for file in others} - {file.stem for file in chosen}
        for file in every:
            if (
                ending_of(file.name) in CAPTION_ENDINGS + TABLE_ENDINGS
                and file.stem not in of_others
            ):
                chosen.add(file)
    names = sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in chosen)
    return Tree(folder, names, unused)


def _walk(folder: Path, unused: Unused) -> Iterator[str]:
    been: set[tuple[int, int]] = set()
    # Real folders go first, so that links to them find them visited.
    linked: list[str] = []
    starts = [str(folder)]

    def closed(error: OSError) -> None:
        unused.add("folders that cannot be read", os.path.relpath(error.filename, folder))

    while starts:
        for here, folders, names in os.walk(starts.pop(0), onerror=closed):
            stat = os.stat(here)
            if (stat.st_dev, stat.st_ino) in been or len(been) >= _MAX_FOLDERS:
                unused.add("linked folders that were read already", os.path.relpath(here, folder))
                folders[:] = []
                continue
            been.add((stat.st_dev, stat.st_ino))
            if here != str(folder) and any(marks <= {*names} for marks in _OURS):
                unused.add("folders of runs, records and models", os.path.relpath(here, folder))
                folders[:] = []
                continue
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            links = [name for name in folders if os.path.islink(os.path.join(here, name))]
            linked += [os.path.join(here, name) for name in links]
            for path in (os.path.join(here, name) for name in sorted(names) if not is_hidden(name)):
                if os.path.isfile(path) or not os.path.exists(path):
                    yield path
                else:
                    unused.add("pipes, sockets and devices", os.path.relpath(path, folder))
        if not starts:
            starts, linked = linked, []

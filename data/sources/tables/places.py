"""Finds the pictures that a table names, among the files of the source only."""

import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from data.sources.captions.names import decoded_name, encoding_of_names
from data.sources.captions.splits import is_split, split_from
from data.sources.files.tree import Tree, is_picture, walk
from data.sources.pairs.pairing import fold

_NUMBERED = re.compile(r"#\w+$")  # Flickr8k's 1000.jpg#0
_NUMBER = re.compile(r"([0-9]{1,18})(?:\.0+)?")  # pandas turns numbers into fractions
_LAST_NUMBER = re.compile(r"([0-9]{1,18})$")


class Places:
    """Maps names in tables to files of the source. Only these files are opened, because a path in
    an untrusted table could name any file or pipe of this machine."""

    def __init__(self, tree: Tree | Path) -> None:
        self._tree = tree

    @cached_property
    def tree(self) -> Tree:
        """The files of the source, listed at first use."""
        return walk(self._tree) if isinstance(self._tree, Path) else self._tree

    @cached_property
    def _by_last(self) -> dict[str, list[str]]:
        names_by_last: dict[str, list[str]] = {}
        encoding = encoding_of_names(self.tree.pictures)
        for name in self.tree.pictures:
            last = fold(decoded_name(name.rpartition("/")[2], encoding))
            names_by_last.setdefault(last, []).append(name)
            stem = last.rpartition(".")[0]
            if stem:
                names_by_last.setdefault(stem, []).append(name)
        return names_by_last

    @cached_property
    def _by_number(self) -> dict[int, list[str]]:
        names_by_number: dict[int, list[str]] = {}
        for name in self.tree.pictures:
            if number := _LAST_NUMBER.search(name.rpartition("/")[2].rpartition(".")[0]):
                names_by_number.setdefault(int(number[1]), []).append(name)
        return names_by_number

    def find_number(self, text: str) -> str | None:
        """The only picture whose name ends in this number, whatever its zeros: 9 and 9.0 are
        COCO_train2014_000000000009.jpg; None if there is not one, but none or several."""
        number = _NUMBER.fullmatch(text.strip())
        names = self._by_number.get(int(number[1]), []) if number else []
        return names[0] if len(names) == 1 else None

    def find(self, path: str, beside: str = "", split: str = "") -> str | None:
        """The file that a table in the folder `beside` names; None if there is none. It is searched
        by its path from the table or from the top, by most equal last folders, or by its name if
        that is unique, also with another ending. Of an address such as my%20cat.jpg the meaning is
        searched as well."""
        name = self._find(path, beside, split)
        is_encoded = name is None and "%" in path
        return self._find(unquote(path), beside, split) if is_encoded else name

    def _find(self, path: str, beside: str, split: str) -> str | None:
        path = _NUMBERED.sub("", path.strip().replace("\\", "/"))
        if not path:
            return None
        here = PurePosixPath(beside).parent
        for name in (str(here / path), str(PurePosixPath(path))):
            if name in self.tree.found:
                return name
        last = fold(path.rpartition("/")[2])
        names = self._by_last.get(last, [])
        if not names and is_picture(last):  # converted to another format
            names = self._by_last.get(last.rpartition(".")[0], [])
        if len(names) > 1:
            most = max(_alike(name, path) for name in names)
            names = [name for name in names if _alike(name, path) == most]
        if len(names) > 1 and split:
            names = [n for n in names if split in map(split_from, filter(is_split, n.split("/")))]
        return names[0] if len(names) == 1 else None

    def alike(self, path: str) -> list[str]:
        """The pictures with this name, in any folder."""
        last = _NUMBERED.sub("", path.strip().replace("\\", "/")).rpartition("/")[2]
        return self._by_last.get(fold(last), [])

    def read(self, path: str, limit: int) -> bytes | None:
        """The bytes of the file; None if the source does not have it."""
        name = self.find(path)
        return None if name is None else self.tree.read(name, limit)


def _alike(name: str, path: str) -> int:
    """The number of equal path components, counted from the end."""
    count = 0
    for folder, other_folder in zip(
        reversed(name.split("/")), reversed(path.split("/")), strict=False
    ):
        if fold(folder) != fold(other_folder):
            break
        count += 1
    return count

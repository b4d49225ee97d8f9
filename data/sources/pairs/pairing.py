"""Pairs pictures with caption files, only by their names.

They are searched in this order: the same name (1.jpg, 1.txt), the whole name (1.jpg.txt), both of
these in another letter case or Unicode form, and names up to their first dot, as in a webdataset.
There 1.input.jpg and 1.output.txt are a pair as well, if no other files have the name 1.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data.sources.base import Unused
from data.sources.files.tree import CAPTION_ENDINGS, ending_of, is_picture


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its caption files, as indices in the list of names."""

    key: str
    picture: int
    texts: tuple[tuple[str, int], ...]
    """(ending, index) of each caption file."""


def pair(
    names: Sequence[str],
    pictures: Sequence[int],
    unused: Unused,
    endings: Sequence[str] = CAPTION_ENDINGS,
    is_webdataset: bool = False,
) -> list[Pair]:
    """The pictures in their order, each with its caption files.

    In a webdataset 1.seg.png beside 1.png is not a picture of its own, unless a caption has its
    name. Skipped files are counted in `unused`.
    """
    texts = _Texts(names, endings)
    plain = {_stem(names[i]) for i in pictures} if is_webdataset else set()
    firsts = Counter(_first(names[i]) for i in pictures) if is_webdataset else Counter[str]()
    pairs = []
    for place in pictures:
        name = names[place]
        key, first = _stem(name), _first(name)
        files = texts.of(key, name)
        if not files and first != key:
            if first in plain:
                unused.add("further pictures of a sample", name)
                continue
            files = texts.take(first, name) or texts.parted(first, name, firsts)
        pairs.append(Pair(key, place, tuple(sorted(files.items(), key=_rank(endings)))))
    for place in texts.unused():
        unused.add("caption files without a picture", names[place])
    return pairs


def _rank(endings: Sequence[str]) -> Callable[[tuple[str, int]], int]:
    return lambda item: endings.index(item[0])


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _first(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def fold(name: str) -> str:
    """The name in a form that ignores letter case and Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


class _Texts:
    """Caption files by the name of their picture."""

    def __init__(self, names: Sequence[str], endings: Sequence[str]) -> None:
        self._names = names
        self._exact: dict[str, dict[str, list[int]]] = {}
        for place, name in enumerate(names):
            if (ending := ending_of(name)) in endings:
                self._exact.setdefault(_stem(name), {}).setdefault(ending, []).append(place)
        self._folded: dict[str, list[str]] = {}
        for stem in self._exact:
            self._folded.setdefault(fold(stem), []).append(stem)
        self._firsts: dict[str, list[str]] = {}
        for stem in self._exact:
            if (first := _first(stem)) != stem and not is_picture(stem):
                self._firsts.setdefault(first, []).append(stem)
        self._used: set[int] = set()

    def of(self, key: str, name: str) -> dict[str, int]:
        """Caption files by the key or the whole name: an exact match, or one in another case if it
        is the only one."""
        for stem in (key, name):
            if files := self.take(stem, name):
                return files
        for stem in (key, name):
            alike = self._folded.get(fold(stem), [])
            if len(alike) == 1:
                return self.take(alike[0], name)
        firsts = self._firsts.get(key, [])  # 1.caption.txt
        return self.take(firsts[0], name) if len(firsts) == 1 else {}

    def take(self, stem: str, name: str) -> dict[str, int]:
        """The files of this stem for a picture: of 1.txt and 1.TXT the one that is written as the
        picture's own ending is."""
        files = {}
        for ending, places in self._exact.get(stem, {}).items():
            alike = [place for place in places if _is_upper(self._names[place]) == _is_upper(name)]
            files[ending] = (alike or places)[0]
        self._used.update(files.values())
        return files

    def parted(self, first: str, name: str, pictures: Mapping[str, int]) -> dict[str, int]:
        """The files of a sample whose members have words between its name and their endings; none
        unless there are one picture and one caption of that name, and none of the words is a
        number: 22.05.png and 22.06.txt differ."""
        stems = self._firsts.get(first, [])
        if pictures.get(first) != 1 or len(stems) != 1:
            return {}
        words = [stem[len(first) + 1 :] for stem in (_stem(name), stems[0])]
        return self.take(stems[0], name) if all(map(str.isalpha, words)) else {}

    def unused(self) -> list[int]:
        """Caption files without a picture."""
        every = (
            place for by_ending in self._exact.values() for p in by_ending.values() for place in p
        )
        return sorted(set(every) - self._used)


def _is_upper(name: str) -> bool:
    return name.rpartition(".")[2].isupper()

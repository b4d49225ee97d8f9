"""Captions in files with other names or places than their pictures': images/ beside captions/, and
folders with one file of captions each."""

import os
import re
from collections import Counter
from collections.abc import Sequence

from data.sources.base import MAX_CAPTION_BYTES, Source, Unused, printable
from data.sources.captions import texts
from data.sources.captions.encodings import decode
from data.sources.config import ReadingConfig
from data.sources.files.tree import CAPTION_ENDINGS, Tree, ending_of, last_part
from data.sources.pairs.folder import FolderSource
from data.sources.pairs.pairing import Pair, pair

_OF_ALL = re.compile(r"captions?|text|prompts?|descriptions?|title", re.IGNORECASE)
"""Names of a file that holds the captions of all pictures in its folder."""


def open_apart(tree: Tree, config: ReadingConfig) -> Source | None:
    """images/ beside captions/, with the same names in both. Their folders may differ, if no name
    comes twice."""
    captions = _captions(tree)
    tops = [_common(names) for names in (tree.pictures, captions)]
    if not captions or not tree.pictures or tops[0] == tops[1]:
        return None
    ways = [
        {name: _under(name, tops[0]) for name in tree.pictures}
        | {name: _under(name, tops[1]) for name in captions}
    ]
    if not {os.path.dirname(name) for name in captions} & {
        os.path.dirname(n) for n in tree.pictures
    }:
        ways.append({name: last_part(name) for name in (*tree.pictures, *captions)})
    for moved in ways:
        unused = Unused()
        if pairs := _pairs(tree, moved, unused):
            about = f"{tops[0] or '.'}/ beside {tops[1] or '.'}/"
            return _source(tree, config, pairs, "apart", about, unused)
    return None


def _pairs(tree: Tree, moved: dict[str, str], unused: Unused) -> list[Pair]:
    """The pairs by the moved names of pictures and captions; none if a name comes twice or if no
    picture has a caption."""
    if len(set(moved.values())) < len(moved):
        return []
    names = [moved.get(name, name) for name in tree.names]
    wanted = set(tree.pictures)
    places = [i for i, name in enumerate(tree.names) if name in wanted]
    pairs = pair(names, places, unused)
    return pairs if any(entry.texts for entry in pairs) else []


def open_each(tree: Tree, config: ReadingConfig) -> Source | None:
    """Folders with one caption.txt or the like each, for all pictures in it."""
    files: dict[str, list[int]] = {}
    for place, name in enumerate(tree.names):
        if ending_of(name) in CAPTION_ENDINGS and _OF_ALL.fullmatch(_stem(name)):
            files.setdefault(os.path.dirname(name), []).append(place)
    folders = {os.path.dirname(name) for name in tree.pictures}
    if len(folders) < 2 or any(len(files.get(folder, ())) != 1 for folder in folders):
        return None
    places = {name: i for i, name in enumerate(tree.names)}
    pairs = []
    for name in tree.pictures:
        text = files[os.path.dirname(name)][0]
        pairs.append(Pair(name, places[name], ((ending_of(tree.names[text]), text),)))
    about = f"{len(folders):,} folders, each with one file of captions"
    counts = Counter(map(os.path.dirname, tree.pictures))
    lines = {folder: _num_lines(tree, tree.names[files[folder][0]]) for folder in folders}
    if config.kind == "each" or any(lines[f] != counts[f] or lines[f] < 2 for f in folders):
        return _source(tree, config, pairs, "each", about, Unused())
    pairs = [Pair(pair.key, pair.picture, ()) for pair in pairs]
    source = _source(tree, config, pairs, "each", about, Unused())
    folder = min(folders)
    source.sought = (
        f"{printable(tree.names[files[folder][0]])} has {lines[folder]:,} lines for "
        f"{counts[folder]:,} pictures: if each line is a caption of all of them, say --kind=each; "
        f"if each is for one picture, put the picture's name and a tab before it"
    )
    return source


def _num_lines(tree: Tree, name: str) -> int:
    """The number of captions in a file of lines or a list in JSON."""
    data = tree.read(name, MAX_CAPTION_BYTES)
    text = decode(data)[0]
    if ending_of(name) == "json":
        try:
            value = texts.parse_json(text)
        except (ValueError, RecursionError):
            return 0
        return len(value) if isinstance(value, list) else 1
    return sum(bool(line.strip()) for line in text.splitlines())


def _source(
    tree: Tree, config: ReadingConfig, pairs: Sequence[Pair], kind: str, about: str, unused: Unused
) -> Source:
    pairs = [Pair(os.path.splitext(tree.names[p.picture])[0], p.picture, p.texts) for p in pairs]
    source = FolderSource(tree, config, pairs)
    source.unused.join(unused)
    source.kind, source.about = kind, about
    return source


def _captions(tree: Tree) -> list[str]:
    return [n for n in tree.ending(*CAPTION_ENDINGS) if last_part(n).lower() != "readme.txt"]


def _stem(name: str) -> str:
    return last_part(name).rpartition(".")[0]


def _common(names: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(n) for n in names]) if names else ""


def _under(name: str, top: str) -> str:
    return os.path.relpath(name, top) if top else name

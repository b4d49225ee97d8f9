"""Pictures with captions in files beside them, in a folder at any depth."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data.pictures.decoding import MAX_BYTES
from data.sources.base import MAX_CAPTION_BYTES, Captions, Example, Source, Unused
from data.sources.captions import texts
from data.sources.captions.encodings import guess, is_other_encoding
from data.sources.captions.inside import caption_inside
from data.sources.captions.names import (
    caption_from_name,
    count_named,
    decoded_name,
    encoding_of_names,
)
from data.sources.captions.splits import split_from, splits_of
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files.tree import CAPTION_ENDINGS, Tree, ending_of
from data.sources.pairs.pairing import Pair, pair

LOOKED_AT = 200  # caption files from which the encoding of a source is guessed
NOT_BESIDE = "none of its pictures has a .txt or .json of the same name beside it"
NOT_NAMED = "their names are numbers, or say what a camera or program writes"
_ABOUT = {"beside": "", "names": ", captions from their names", "inside": ", captions inside them"}
_OWN = {"names": "names", "inside": "those inside pictures"}
_UNREADABLE = "a caption file cannot be read"
_INSTEAD = "files of captions, in place of which --captions={} reads {}"
_TABLES = ("csv", "tsv", "jsonl", "ndjson")
_NOT_USED = "captions of a second caption file of the picture, which differ, are not used"


class FolderSource(Source):
    """Pictures with .txt, .caption or .json files of the same name beside them."""

    kind = "folder"

    def __init__(
        self, tree: Tree, config: ReadingConfig = PLAIN, pairs: Sequence[Pair] | None = None
    ) -> None:
        self.path, self.config, self._tree = tree.folder, config, tree
        self.damage, self.unused = {}, Unused()
        self.unused.join(tree.unused)
        if pairs is None:
            places = {name: i for i, name in enumerate(tree.names)}
            endings = (*CAPTION_ENDINGS, *(("xmp",) if config.captions == "inside" else ()))
            pairs = pair(tree.names, [places[n] for n in tree.pictures], self.unused, endings)
        self._pairs = pairs
        # Of images/ beside captions/ the pictures may be in train/ and val/ as well.
        self._splits = splits_of([tree.names[entry.picture] for entry in pairs])
        if config.captions == "names":
            self.num_captioned = count_named(tree.names[entry.picture] for entry in pairs)
            self.sought = NOT_NAMED
        elif config.captions == "inside":
            self.num_captioned = len(pairs)  # the captions are read with the pictures
        else:
            self.num_captioned = sum(bool(entry.texts) for entry in pairs)
            self.sought = NOT_BESIDE
        if config.captions != "beside":
            unread = (i for entry in pairs for end, i in entry.texts if end not in ("json", "xmp"))
            tables = [name for name in tree.names if ending_of(name) in _TABLES]
            for name in (*(tree.names[i] for i in unread), *tables):
                self.unused.add(_INSTEAD.format(config.captions, _OWN[config.captions]), name)
        if config.captions == "names":
            self.encoding = config.caption_encoding or encoding_of_names(tree.pictures)
        else:
            self.encoding = config.caption_encoding or guess_encoding(self._some_captions())
        self.about = beside_about("a folder of pictures", config)

    @property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The pictures, each followed by its captions."""
        places = (i for entry in self._pairs for i in (entry.picture, *(i for _, i in entry.texts)))
        return self._tree.paths(self._tree.names[place] for place in places)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        entry = self._pairs[index]
        name = self._tree.names[entry.picture]
        files: dict[str, bytes] = {}
        notes: tuple[str, ...] = ()
        for ending, place in entry.texts:
            try:
                files[ending] = self._tree.read(self._tree.names[place], MAX_CAPTION_BYTES)
            except OSError:
                notes = (_UNREADABLE,)
        data = self._tree.read(name, MAX_BYTES)
        example = example_beside(entry.key, data, files, name, self.config, self.encoding)
        split = self._splits[index] if self._splits and self.config.splits == "own" else ""
        return replace(example, split=example.split or split, notes=(*example.notes, *notes))

    def _some_captions(self) -> Iterator[bytes]:
        captioned = [entry for entry in self._pairs if entry.texts]
        step = max(len(captioned) // LOOKED_AT, 1)
        for entry in captioned[::step]:
            for _, place in entry.texts:
                with contextlib.suppress(OSError, ValueError):  # reported with its picture
                    yield self._tree.read(self._tree.names[place], MAX_CAPTION_BYTES)


def guess_encoding(captions: Iterable[bytes]) -> str:
    """The encoding of captions, guessed from all of them, because one alone is too short; empty for
    UTF-8."""
    others = [data for data in captions if is_other_encoding(data)]
    return guess(others) if others else ""


def beside_about(what: str, config: ReadingConfig) -> str:
    """A description of the layout and of the place of its captions."""
    return what + _ABOUT[config.captions]


def example_beside(
    key: str,
    data: bytes,
    files: dict[str, bytes],
    file: str,
    config: ReadingConfig,
    encoding: str = "",
    member: str = "",
) -> Example:
    """An example from the bytes of a picture and of its caption files, by their endings."""
    result, about = texts.from_json(files.get("json", b""), config.caption_column, encoding)
    for ending in ("caption", "txt"):
        if ending in files:
            lines = texts.from_lines(files[ending], encoding)
            if result.captions:
                others = {text for text, _ in lines.captions} - {
                    text for text, _ in result.captions
                }
                result.notes += [_NOT_USED] if others else []
                continue
            kept = result.notes if not lines.captions else []
            result = texts.ReadCaptions(lines.captions, kept + lines.notes)
    captions: Captions = result.captions
    if config.captions == "names":
        name = member or file
        captions, result.notes = caption_from_name(name, encoding), []
        if decoded_name(name, encoding) != name:
            result.notes = [f"names were read as {encoding}"]
    elif config.captions == "inside":
        captions, result.notes = caption_inside(data, files.get("xmp", b"")), []
    split = split_from(about.get("split")) if config.splits == "own" else ""
    columns, more = texts.columns_from(about)
    attributes, notes = texts.attributes_from(about), (*result.notes, *more)
    return Example(key, data, captions, split, attributes, file, member, notes, columns)

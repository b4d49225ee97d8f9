"""The table of kinds of sources, in the order in which they are tried; a folder, or files, as the
first kind that matches."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.sources import layouts
from data.sources.base import Source, counted, printable
from data.sources.config import ReadingConfig
from data.sources.files.tree import (
    ARCHIVES,
    VIDEOS,
    Tree,
    among,
    ending_of,
    is_picture,
    last_part,
    walk,
)
from data.sources.files.zip import ZipTree
from data.sources.joined import JoinedSource
from data.sources.pairs import apart
from data.sources.pairs.folder import FolderSource
from data.sources.pairs.tar import TarSource
from data.sources.pairs.tfrecord import TFRecordSource
from data.sources.tables import arrow, listed
from data.sources.tables.columns import ColumnSource
from data.sources.tables.parquet import ParquetTable, holds_pictures
from data.sources.tables.places import Places

_LOOKED_AT = 20  # parquet files that are looked into for pictures

Opener = Callable[[Tree, ReadingConfig], Source | None]


@dataclass(frozen=True)
class Kind:
    """One layout of captioned pictures."""

    name: str
    about: str
    open: Opener
    """Opens the source, or returns None if the folder does not have this layout."""


_OF_FILES = (
    Kind("metadata", "metadata.csv, .jsonl or .parquet beside pictures", layouts.open_metadata),
    Kind("folder", "pictures with .txt, .caption or .json files beside them", layouts.open_beside),
    Kind("coco", "COCO's JSON of captions", layouts.open_coco),
    Kind("flickr", "Flickr8k's captions.txt, Flickr30k's results.csv", layouts.open_flickr),
    Kind("table", "a csv, tsv, jsonl, json or parquet of paths", layouts.open_tables),
)
_BY_FOLDERS = (
    Kind("apart", "images/ beside captions/", apart.open_apart),
    Kind("each", "folders with one caption.txt each, for all pictures in it", apart.open_each),
    Kind("classes", "folders named by class", layouts.open_classes),
)


def _open_zips(tree: Tree, config: ReadingConfig) -> Source | None:
    """Zip files of pictures, in any layout of files, with tables beside or inside them."""
    zips = [tree.path(name) for name in tree.ending("zip")]
    if not zips or tree.pictures:
        return None
    is_alone = len(zips) == 1 and not tree.ending(*layouts.TABLES, "txt")
    return _in_zips(ZipTree(zips, None if is_alone else tree), config)


def _in_zips(tree: ZipTree, config: ReadingConfig) -> Source:
    kinds = [k for k in (*_OF_FILES, *_BY_FOLDERS) if config.kind in ("", "zip", k.name)]
    source = next(filter(None, (kind.open(tree, config) for kind in kinds)), None)
    if source is None:
        if not tree.pictures and (why := _explain(tree)):
            raise ValueError(f"no pictures in {printable(str(tree.files[0]))}: {why}")
        source = FolderSource(tree, config)
        source.sought = layouts.with_alternatives(tree, source.sought, config)
    source.about += f" in {counted(len(tree.files), 'zip')}"
    if tree.names_read_as:
        source.about += f" (names read as {tree.names_read_as})"
    source.damage |= tree.damage
    return source


KINDS = (
    Kind("arrow", "what datasets.save_to_disk wrote", layouts.open_arrow),
    Kind("tar", "webdataset tars", layouts.open_tars),
    Kind("tfrecord", "img2dataset's TFRecords", layouts.open_tfrecords),
    *_OF_FILES,
    Kind("parquet", "parquet files with pictures in a column", layouts.open_parquet),
    Kind("zip", "zip files of any of these, or of the three below", _open_zips),
    *_BY_FOLDERS,
)


def open_tree(tree: Tree, config: ReadingConfig) -> Source:
    """The source in a folder, of the first kind that matches."""
    folder = tree.folder
    if config.pictures:
        tables = [tree.path(name) for name in tree.ending(*layouts.TABLES, "txt")]
        return _open_tables(tables, config)
    for kind in KINDS:
        if config.kind in ("", kind.name) and (source := kind.open(tree, config)) is not None:
            _count_unread(tree, source)
            return source
    if config.kind and config.kind != "folder":
        raise ValueError(
            f"{folder} does not look like kind {config.kind!r} of source; omit --kind to have it "
            "recognised"
        )
    if not tree.pictures and (why := _explain(tree)):
        raise ValueError(f"no pictures in {printable(str(folder))}: {why}")
    pictures = FolderSource(tree, config)
    if not pictures.num_captioned:
        pictures.sought = layouts.with_alternatives(tree, pictures.sought, config)
    return pictures


def _count_unread(tree: Tree, source: Source) -> None:
    """Count archives, videos and parquet files of pictures that are not part of the source."""
    archives, videos = tree.ending(*ARCHIVES), tree.ending(*VIDEOS)
    parquet, damaged = list[str](), list[str]()
    for name in tree.ending("parquet")[:_LOOKED_AT]:
        try:
            parquet += [name] if holds_pictures([tree.path(name)]) else []
        except ValueError:
            damaged.append(name)
    read = set(source.files) if archives or parquet or damaged else set()
    for reason, names in (
        ("archives beside what is read (name them as sources, too, or unpack them)", archives),
        ("parquet files of pictures beside what is read (name them as sources, too)", parquet),
        ("damaged parquet files", damaged),
        ("videos", videos),
    ):
        for name in names:
            if tree.path(name) not in read:
                source.unused.add(reason, name)


def _explain(tree: Tree) -> str:
    """The probable reason why there are no pictures, by the existing files."""
    tables = [n for n in tree.names if ending_of(n) in layouts.TABLES]
    if why := listed.describe_unreachable(tree, tables):
        return why
    if packed := [n for n in tree.ending(*ARCHIVES) if ending_of(n) not in ("tar", "zip")]:
        return f"{printable(packed[0])} is compressed; unpack it first"
    if isinstance(tree, ZipTree) and (packed := tree.ending(*ARCHIVES)):
        return f"{printable(packed[0])} in it is an archive, too; unpack the outer one first"
    if saved := [n for n in tree.names if last_part(n) in arrow.MARKERS]:
        return f"{printable(os.path.dirname(saved[0]))} in it is a saved data set: name that folder"
    for name in tree.ending("txt"):
        if layouts.is_address(tree.read(name, 4096).decode(errors="replace")):
            return f"{printable(name)} names pictures by their addresses: download them"
    counts = Counter(map(ending_of, tree.names)).most_common(3)
    others = ", ".join(f"{count:,} .{printable(ending)}" for ending, count in counts if ending)
    return f"its files are {others}" if others else ""


def open_files(files: Sequence[Path], config: ReadingConfig) -> Source:
    """A source of files of one kind."""
    if all(is_picture(file.name) for file in files):
        return open_tree(among(files), config)
    endings = {ending_of(file.name) for file in files}
    if endings == {"tar"}:
        return TarSource(files, None, config)
    if endings == {"zip"}:
        return _in_zips(ZipTree(files), config)
    if endings == {"tfrecord"}:
        return TFRecordSource(files, config)
    if len(endings) > 1:
        return JoinedSource([open_files([file], config) for file in files])
    if endings == {"parquet"} and holds_pictures(files):
        places = Places(files[0].parent)
        table = ParquetTable(files[0].parent if len(files) > 1 else files[0], files)
        return ColumnSource(table, "parquet", counted(len(files), "parquet file"), places, config)
    return _open_tables(files, config)


def _open_tables(files: Sequence[Path], config: ReadingConfig) -> Source:
    """Tables of pictures that are beside them, or in the folder `pictures`."""
    if not files:
        raise ValueError("pictures needs a table as its source, and there is none")
    elsewhere = Path(os.path.expanduser(config.pictures)) if config.pictures else None
    if elsewhere and not elsewhere.is_dir():
        raise ValueError(f"pictures {printable(str(elsewhere))} is not a folder")
    tree = walk(elsewhere or files[0].parent)
    # An absolute name ignores the folder.
    names = [str(file.absolute()) if elsewhere else file.name for file in files]
    source = layouts.open_file_tables(tree, names, config)
    if source is None:
        why = listed.describe_unreachable(tree, names)
        if not why and any(layouts.is_address(first) for first in map(_first_line, files)):
            why = f"{printable(str(files[0]))} names pictures by their addresses: download them"
        if not why and all(is_picture(first) for first in map(_first_line, files)):
            why = (
                f"{printable(str(files[0]))} is a list of pictures without captions: name the "
                "folder of the pictures instead"
            )
        raise ValueError(why or f"{files[0]} names no picture in {tree.folder}")
    return source


def _first_line(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.readline(4096).decode(errors="replace").strip()

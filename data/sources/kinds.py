"""The table of kinds of sources, in the order in which they are tried."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data.sources import apart, arrow, layouts, listed, remote
from data.sources.addresses import HUB, RemoteError, check_scheme, find, scheme_of, without_secrets
from data.sources.base import Source, counted, printable
from data.sources.columns import ColumnSource
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files import (
    ARCHIVES,
    CAPTION_ENDINGS,
    SPREADSHEETS,
    TABLE_ENDINGS,
    VIDEOS,
    Tree,
    among,
    ending_of,
    is_picture,
    last_part,
    walk,
)
from data.sources.folder import FolderSource
from data.sources.joined import JoinedSource
from data.sources.parquet import ParquetTable, holds_pictures
from data.sources.places import Places
from data.sources.tar import TarSource
from data.sources.tfrecord import TFRecordSource
from data.sources.zip import ZipTree

_LOOKED_AT = 20  # parquet files that are looked into for pictures
_HUB = re.compile(r"^(?!\.)[\w.-]+/[\w.-]+$")

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
    found = [tree.path(name) for name in tree.ending("zip")]
    if not found or tree.pictures:
        return None
    is_alone = len(found) == 1 and not tree.ending(*layouts.TABLES, "txt")
    return _in_zips(ZipTree(found, None if is_alone else tree), config)


def _in_zips(tree: ZipTree, config: ReadingConfig) -> Source:
    kinds = [k for k in (*_OF_FILES, *_BY_FOLDERS) if config.kind in ("", "zip", k.name)]
    source = next(filter(None, (kind.open(tree, config) for kind in kinds)), None)
    if source is None:
        source = FolderSource(tree, config)
        source.sought = layouts.tell_unused(tree, source.sought, config)
    source.about += f" in {counted(len(tree.files), 'zip')}"
    source.damage |= tree.damage
    return source


_WITH_NAMES = ("folder", "apart", "each", "tar")
"""Kinds of sources whose captions may be the names of the pictures."""

KINDS = (
    Kind("arrow", "what datasets.save_to_disk wrote", layouts.open_arrow),
    Kind("tar", "webdataset tars", layouts.open_tars),
    Kind("tfrecord", "img2dataset's TFRecords", layouts.open_tfrecords),
    *_OF_FILES,
    Kind("parquet", "parquet files with pictures in a column", layouts.open_parquet),
    Kind("zip", "zip files of any of these, or of the three below", _open_zips),
    *_BY_FOLDERS,
)


def open_source(
    path: str | Path | Sequence[str],
    need_captions: bool = True,
    config: ReadingConfig = PLAIN,
) -> Source:
    """Open one or several sources: folders, tars, tables, saved data sets.

    Raises:
        ValueError: there is nothing, no picture, or no caption where `need_captions`; the message
            says which layouts were tried.
    """
    _check(config)
    paths = [str(path)] if isinstance(path, str | Path) else [str(one) for one in path]
    try:
        return _open_all(paths, need_captions, config)
    except RemoteError as error:
        raise ValueError(str(error)) from None


def _open_all(paths: list[str], need_captions: bool, config: ReadingConfig) -> Source:
    if not paths:
        raise ValueError("no source is named")
    if len(paths) > 1 and all(one.endswith(".tar") and Path(one).is_file() for one in paths):
        sources: list[Source] = [TarSource([Path(one) for one in paths], None, config)]
    else:
        sources = _open_each(paths, config)
    for one in sources if config.captions == "names" else ():
        if one.kind not in _WITH_NAMES and len(one):
            raise ValueError(
                f"{printable(str(one.path))} is {one.about}, whose pictures have no names of their "
                "own: omit --captions=names"
            )
    source = sources[0] if len(sources) == 1 else JoinedSource(sources)
    named = printable(", ".join(map(_shown, paths)))
    if not len(source):
        reasons = "; ".join(f"{name}: {why}" for name, why in list(source.damage.items())[:3])
        reasons = reasons or "; ".join(source.unused.sentences())
        raise ValueError(
            f"no pictures in {named}: looked for files that end in jpg, png, webp and the "
            f"like, and for tars and tables of them"
            + (f" ({printable(reasons)})" if reasons else "")
        )
    if need_captions and not source.num_captioned:
        raise ValueError(
            f"no captions in {named}: found {source.about} with {len(source):,} pictures, but "
            f"{source.sought}; docs/layouts.md shows what can be read"
        )
    return source


def _open_each(paths: list[str], config: ReadingConfig) -> list[Source]:
    """The source at each path. Pictures and captions that a shell's FOLDER/* names are one."""
    pictures = [Path(one) for one in paths if is_picture(one) and Path(one).is_file()]
    if not pictures:
        return [_open(one, config) for one in paths]
    endings = (*CAPTION_ENDINGS, *TABLE_ENDINGS)
    beside = [one for one in paths if ending_of(one) in endings and Path(one).is_file()]
    rest = [one for one in paths if Path(one) not in pictures and one not in beside]
    return [_open_tree(among(pictures), config), *(_open(one, config) for one in rest)]


def _shown(path: str) -> str:
    return without_secrets(path) if "://" in path else path


def _check(config: ReadingConfig) -> None:
    """Raise ValueError for an unknown kind."""
    if config.kind and config.kind not in {kind.name for kind in KINDS}:
        names = ", ".join(kind.name for kind in KINDS)
        raise ValueError(f"no kind {config.kind!r} of source; there are: {names}")


def _open(path: str, config: ReadingConfig) -> Source:
    """The source at one path, address, glob, list or range."""
    if scheme_of(path) and not Path(path).exists():
        return _open_address(path, config)
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return _open_tree(walk(folder), config)
    if _HUB.match(path) and not folder.exists():
        return _open_from_hub(path, config)
    return _open_files(_find(path), config)


def _open_address(address: str, config: ReadingConfig) -> Source:
    """The source at an address: files by their endings, anything else as a folder."""
    import braceexpand

    if check_scheme(address) == "hf" and not address.startswith((HUB, "hf://buckets/")):
        name = address.removeprefix("hf://")
        raise ValueError(f"{printable(address)} is no data set of the hub; try {HUB}{name}")
    found = [one for pattern in braceexpand.braceexpand(address) for one in find(pattern)]
    if not found:
        raise ValueError(f"{printable(address)} matches nothing")
    if all(ending_of(urlsplit(one).path) in _FILES for one in found):
        return _open_files(remote.open_files(found), config)
    if len(found) > 1:
        return JoinedSource([_open_address(one, config) for one in found])
    return _open_tree(remote.open_folder(found[0]).tree(), config)


def _open_from_hub(name: str, config: ReadingConfig) -> Source:
    """The data set of this name on the Hugging Face hub; no folder here has the name."""
    try:
        return _open_address(f"{HUB}{name}", config)
    except RemoteError as error:
        raise ValueError(
            f"there is no {printable(name)} on this machine, and as a data set of the Hugging Face "
            f"hub {error}; save it where there is a network: "
            f"datasets.load_dataset({name!r}).save_to_disk(FOLDER)"
        ) from None


def _open_tree(tree: Tree, config: ReadingConfig) -> Source:
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
        pictures.sought = layouts.tell_unused(tree, pictures.sought, config)
    return pictures


def _count_unread(tree: Tree, source: Source) -> None:
    """Count archives, videos and parquet files of pictures that are not part of the source."""
    archives, videos = tree.ending(*ARCHIVES), tree.ending(*VIDEOS)
    parquet = [n for n in tree.ending("parquet")[:_LOOKED_AT] if holds_pictures(tree.path(n))]
    read = set(source.files) if archives or parquet else set()
    for reason, names in (
        ("archives beside what is read (name them as sources, too, or unpack them)", archives),
        ("parquet files of pictures beside what is read (name them as sources, too)", parquet),
        ("videos", videos),
    ):
        for name in names:
            if tree.path(name) not in read:
                source.unused.add(reason, name)


def _explain(tree: Tree) -> str:
    """The probable reason why there are no pictures, by the existing files."""
    tables = [n for n in tree.names if ending_of(n) in layouts.TABLES]
    if why := listed.tell_elsewhere(tree, tables):
        return why
    if packed := [n for n in tree.ending(*ARCHIVES) if ending_of(n) not in ("tar", "zip")]:
        return f"{printable(packed[0])} is compressed; unpack it first"
    if saved := [n for n in tree.names if last_part(n) in arrow.MARKERS]:
        return f"{printable(os.path.dirname(saved[0]))} in it is a saved data set: name that folder"
    for name in tree.ending("txt"):
        if layouts.is_address(tree.read(name, 4096).decode(errors="replace")):
            return f"{printable(name)} names pictures by their addresses: download them"
    counts = Counter(map(ending_of, tree.names)).most_common(3)
    others = ", ".join(f"{count:,} .{printable(ending)}" for ending, count in counts if ending)
    return f"its files are {others}" if others else ""


def _find(path: str) -> list[Path]:
    """The files that a path, glob, list or range names."""
    import braceexpand

    whole = Path(os.path.expanduser(path))
    patterns = [str(whole)] if whole.exists() else braceexpand.braceexpand(str(whole))
    found = [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
    gone = [one for one in found if not one.exists()]
    if 0 < len(gone) < len(found):
        raise ValueError(
            f"{printable(path)} names {len(found):,} files, of which {len(gone):,} are not there, "
            f"such as {printable(str(gone[0]))}; '{printable(str(gone[0].parent))}/*"
            f"{printable(gone[0].suffix)}' names those that are there"
        )
    for one in found:
        if not one.exists():
            raise ValueError(
                f"there is no {printable(str(one))}: a source is a folder of pictures or tars, or "
                f"tars, tables or zips"
            )
        if ending_of(one.name) in SPREADSHEETS:
            raise ValueError(f"{printable(str(one))} is a spreadsheet; save it as CSV")
        if not one.is_file() or not (is_picture(one.name) or ending_of(one.name) in _FILES):
            known = ", ".join(f".{ending}" for ending in _FILES)
            raise ValueError(
                f"{printable(str(one))} is not a .tar file (unpack compressed ones first), "
                f"and none of {known}"
            )
    return found


_FILES = ("tar", "zip", "tfrecord", *layouts.TABLES, "txt")


def _open_files(files: Sequence[Path], config: ReadingConfig) -> Source:
    """A source of files of one kind."""
    if all(is_picture(file.name) for file in files):
        return _open_tree(among(files), config)
    endings = {ending_of(file.name) for file in files}
    if endings == {"tar"}:
        return TarSource(files, None, config)
    if endings == {"zip"}:
        return _in_zips(ZipTree(files), config)
    if endings == {"tfrecord"}:
        return TFRecordSource(files, config)
    if len(endings) > 1:
        return JoinedSource([_open_files([file], config) for file in files])
    if endings == {"parquet"} and holds_pictures(files[0]):
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
        why = listed.tell_elsewhere(tree, names)
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

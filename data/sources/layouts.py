"""Recognises the layout of a folder: one function per kind, which returns the source or None."""

import os
import re
from collections import Counter
from collections.abc import Sequence

from data.pictures.decoding import MAX_BYTES
from data.sources.base import Source, Unused, counted, printable
from data.sources.captions import texts
from data.sources.captions.inside import caption_inside
from data.sources.captions.names import (
    caption_from_name,
    decoded_name,
    encoding_of_names,
    in_template,
    words_in_name,
)
from data.sources.captions.splits import is_split
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files.tree import (
    ARCHIVES,
    CAPTION_ENDINGS,
    SPREADSHEETS,
    Tree,
    ending_of,
    is_picture,
    last_part,
)
from data.sources.pairs.folder import FolderSource
from data.sources.pairs.pairing import pair
from data.sources.pairs.tar import TarSource
from data.sources.pairs.tfrecord import TFRecordSource
from data.sources.tables import arrow, listed
from data.sources.tables.columns import ColumnSource
from data.sources.tables.parquet import ParquetTable, holds_pictures
from data.sources.tables.places import Places
from data.sources.tables.rows import TableFile, first_rows
from data.sources.tables.table_columns import describe_ambiguous, names_of

TABLES = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet", "token")
_NO_WORDS = r"images?|imgs?|jpe?gs?|pngs?|pictures?|pics|photos?|data|files?|media|uploads?|\W*\d*"
_NO_CLASSES = re.compile(rf"^({_NO_WORDS}|n\d{{8}}|\W*[a-z]\d*)$", re.IGNORECASE)
"""Names of folders without a meaning: ImageNet's n01440764, digits, single letters."""
_UNREAD_TABLES = (
    *("yaml", "yml", "xml", "xmp", "toml", "html", "pkl", "pickle", "npy", "npz", "mat", "h5"),
    *("hdf5", "db", "sqlite", "sqlite3", "feather", "arrow", "orc", "avro", "pt", "safetensors"),
)
_OF_CAPTIONS = r"caption|prompt|metadata|annot|label|descri|text|tags"
"""Words in the name of a file that may hold captions."""
_LOOKED_AT = 8  # pictures that are looked into for captions
_MOST_TEXTS = 20  # .txt files that are looked into for a table


def open_arrow(tree: Tree, config: ReadingConfig) -> Source | None:
    """A folder that `datasets.save_to_disk` wrote."""
    if not any((tree.folder / marker).is_file() for marker in arrow.MARKERS):
        return None
    return ColumnSource(
        arrow.ArrowTable(tree.folder),
        "arrow",
        "a saved Hugging Face data set",
        Places(tree),
        config,
    )


def open_tars(tree: Tree, config: ReadingConfig) -> Source | None:
    """Webdataset tars."""
    tars = tree.ending("tar")
    if not tars:
        return None
    loose = [name for name in tree.names if is_picture(name)]
    if loose:
        raise ValueError(
            f"{tree.folder} holds {len(tars)} tars and also {len(loose)} loose pictures, such as "
            f"{loose[0].rpartition('/')[2]}; put them into different folders"
        )
    return TarSource([tree.path(name) for name in tars], tree.folder, config)


def open_tfrecords(tree: Tree, config: ReadingConfig) -> Source | None:
    """TFRecords of img2dataset."""
    paths = [tree.path(name) for name in tree.ending("tfrecord", "tfrecords")]
    return TFRecordSource(paths, config) if paths else None


def open_metadata(tree: Tree, config: ReadingConfig) -> Source | None:
    """metadata.csv, .jsonl or .parquet of Hugging Face's imagefolder."""
    names = [n for n in tree.names if re.fullmatch(r"metadata\.(csv|jsonl|parquet)", last_part(n))]
    return _open_listed(tree, names, config, "metadata", "Hugging Face's imagefolder")


def open_beside(tree: Tree, config: ReadingConfig) -> Source | None:
    """Captions beside at least half of the pictures, or in their names."""
    source = FolderSource(tree, config)
    is_own = config.captions != "beside"
    if not len(source) or (not is_own and 2 * source.num_captioned < len(source)):
        return None
    if source.num_captioned < len(source) and not is_own and not config.kind:
        try:
            tables = open_tables(tree, config)  # which may have the other captions
        except ValueError as error:
            source.unused.add("tables that cannot be read", str(error))
            return source
        if tables is not None and tables.num_captioned > source.num_captioned:
            return tables
    return source


def open_tables(tree: Tree, config: ReadingConfig) -> Source | None:
    """Any table of paths and captions, including COCO and Flickr."""
    names = _table_names(tree)
    source = _open_listed(tree, names, config, "table", "pictures and tables of captions")
    beside = FolderSource(tree, config) if source else None
    return (
        beside
        if beside and beside.num_captioned > (source.num_captioned if source else 0)
        else source
    )


def open_coco(tree: Tree, config: ReadingConfig) -> Source | None:
    """COCO's captions_train2017.json and the like."""
    names = [
        n for n in tree.ending("json") if re.search(r"caption|coco", last_part(n), re.IGNORECASE)
    ]
    return _open_listed(tree, names, config, "coco", "COCO captions")


def open_flickr(tree: Tree, config: ReadingConfig) -> Source | None:
    """Flickr8k's captions.txt and Flickr30k's results.csv."""
    table_names = ("captions.txt", "results.csv", "flickr8k.token.txt", "results_20130124.token")
    names = [n for n in tree.names if last_part(n).lower() in table_names]
    return _open_listed(tree, names, config, "flickr", "Flickr captions")


def open_parquet(tree: Tree, config: ReadingConfig) -> Source | None:
    """Parquet files with pictures in them."""
    paths = [tree.path(name) for name in tree.ending("parquet")]
    if not paths or not holds_pictures(paths):
        return None
    table = ParquetTable(tree.folder, paths)
    about = counted(len(paths), "parquet file")
    return ColumnSource(table, "parquet", about, Places(tree), config)


def open_classes(tree: Tree, config: ReadingConfig) -> Source | None:
    """Folders named by class, unless the names have no meaning."""
    classes = {name: _class_of(name) for name in tree.pictures}
    encoding = encoding_of_names(set(classes.values()))
    classes = {name: decoded_name(folder, encoding) for name, folder in classes.items()}
    named = config.kind == "classes"
    if named and not any(classes.values()):  # one folder of one thing
        classes = dict.fromkeys(classes, tree.folder.absolute().name.removesuffix(".zip"))
    some = set(classes.values())
    if not named and (
        len(some) < 2 or any(not folder or _NO_CLASSES.match(folder) for folder in some)
    ):
        return None
    entries = []
    for name, folder in classes.items():
        words = (words_in_name(folder) or folder) if folder else ""
        captions = [in_template(config.caption_template, words)] if words else []
        entries.append(listed.Entry(name, list(texts.weighed(captions).captions)))
    listed.split_by_folders(entries)
    about = counted(len(some), "folder") + " named by class"
    about += f" (names read as {encoding})" if encoding else ""
    if not entries:
        return None
    source = listed.ListedSource(tree, entries, "classes", about, (), config)
    for name in tree.ending(*TABLES, "txt", "caption"):
        source.unused.add("files of captions or tables that name no picture", name)
    return source


def open_file_tables(tree: Tree, names: Sequence[str], config: ReadingConfig) -> Source | None:
    """Tables that the user named, of pictures in the folder that holds them."""
    return _open_listed(tree, names, config, "table", "a table of pictures and captions")


def _open_listed(
    tree: Tree, names: Sequence[str], config: ReadingConfig, kind: str, about: str
) -> Source | None:
    if not names or not tree.pictures or config.captions != "beside":
        return None
    tables = listed.read_tables(tree, Places(tree), names, config)
    if not tables.entries:
        return None
    used, entries = tables.used, tables.entries
    beside = _beside(tree, config, entries)
    for picture in tree.pictures:
        if picture not in entries:
            tables.unused.add("pictures that no table names", picture)
    about = f"{about} ({', '.join(used[:3])}{' …' if len(used) > 3 else ''})"
    about += f", captions in {printable(tables.guessed)}" if tables.guessed else ""
    about += f" and {len(beside):,} captions beside pictures" if beside else ""
    source = listed.ListedSource(tree, list(entries.values()), kind, about, used, config, beside)
    names = names_of(tree, used)
    source.sought = f"the columns of its tables are {names}; --caption_column names one"
    source.unused.join(tables.unused)
    return source


def _beside(
    tree: Tree, config: ReadingConfig, entries: dict[str, listed.Entry]
) -> FolderSource | None:
    """The pictures that have no caption in a table but in a file beside them, or None. They are
    added to the entries."""
    rest = {n for n in tree.pictures if n not in entries or not entries[n].captions}
    if not rest or not tree.ending(*CAPTION_ENDINGS):
        return None
    places = [i for i, name in enumerate(tree.names) if name in rest]
    pairs = [entry for entry in pair(tree.names, places, Unused()) if entry.texts]
    for place, entry in enumerate(pairs):
        name = tree.names[entry.picture]
        entries.setdefault(name, listed.Entry(name)).beside = place
    return FolderSource(tree, config, pairs) if pairs else None


def _table_names(tree: Tree) -> list[str]:
    """Names of tables, without JSON files that have the name of a picture."""
    stems = {os.path.splitext(name)[0] for name in tree.pictures} | set(tree.pictures)
    free = [name for name in tree.names if os.path.splitext(name)[0] not in stems]
    texts = [name for name in free if ending_of(name) == "txt"]
    if len(texts) > _MOST_TEXTS:
        texts = [name for name in texts if "/" not in name][:_MOST_TEXTS]
    return [name for name in free if ending_of(name) in TABLES or name in texts]


def is_address(line: str) -> bool:
    """True if a line begins with the address of a file elsewhere."""
    return line.lstrip("\ufeff \t\"'").lower().startswith(listed.ADDRESSES)


def with_alternatives(tree: Tree, sought: str, config: ReadingConfig = PLAIN) -> str:
    """The text `sought`, with files and folders that may be meant instead."""
    tables = [
        name for name in tree.ending(*TABLES, "txt") if last_part(name).lower() != "readme.txt"
    ]
    if tables and (several := describe_ambiguous(tree, tables[:3])):
        sought += f" ({several})"
    elif tables:
        others = ", ".join(printable(name) for name in tables[:3])
        sought += f" (there are {others}, which name none of its pictures"
        sought += f"{_describe_first_row(tree, tables[0])})"
    in_names = sorted(c[0][0] for c in map(caption_from_name, tree.pictures) if c)
    if any(caption_inside(tree.read(name, MAX_BYTES)) for name in tree.pictures[:_LOOKED_AT]):
        return f"{sought}; its pictures have captions inside them: say --captions=inside"
    is_one_for_all = len(in_names) > 1 and len(set(in_names)) == 1
    if in_names and not is_one_for_all and config.captions != "names":
        some = ", ".join(
            f'"{printable(caption)}"' for caption in in_names[:: max(len(in_names) // 3, 1)][:3]
        )
        sought += f"; if their names are captions ({some} …), say --captions=names"
    sought += _describe_unread(tree)
    sought += (others := _describe_other_endings(tree))
    folders = sorted(
        folder
        for folder in {_class_of(name) for name in tree.pictures}
        if folder and not re.fullmatch(_NO_WORDS, folder, re.IGNORECASE)
    )
    if folders:
        some = ", ".join(printable(name) for name in folders[:3]) + " …" * (len(folders) > 1)
        sought += f"; if its folders are classes ({some}), say --kind=classes"
    elif not tables and not in_names and not others:
        sought += "; if all show the same, name their folder after it, and say --kind=classes"
    return sought


def _describe_first_row(tree: Tree, table: str) -> str:
    """A text with the beginning of a table's first row and a picture's name, to compare them."""
    try:
        row = next(iter(first_rows(TableFile(tree, table), 1)), {})
    except ValueError:
        return ""
    cells = [f'"{str(cell)[:30]}"' for cell in row.values() if isinstance(cell, str | int)][:2]
    if not cells or not tree.pictures:
        return ""
    said, name = printable(", ".join(cells)), printable(tree.pictures[0])
    return f": its first row says {said}, a picture is {name}"


def _describe_unread(tree: Tree) -> str:
    """A text about a table that cannot be read as it is: a compressed one, or one that only its
    name tells."""
    for name in tree.names:
        stem, ending = os.path.splitext(name)
        if ending_of(stem) in (*TABLES, "txt") and ending[1:].lower() in ARCHIVES:
            return f"; {printable(name)} is compressed: unpack it first"
    for name in tree.ending(*_UNREAD_TABLES):
        if re.search(_OF_CAPTIONS, last_part(name), re.IGNORECASE):
            return f"; {printable(name)} is not read: save it as CSV or JSON"
    return ""


def _describe_other_endings(tree: Tree) -> str:
    """A text about files that may hold the captions but have other endings than those read."""
    if sheets := tree.ending(*SPREADSHEETS):
        return f"; {printable(sheets[0])} is a spreadsheet: save it as CSV"
    stems = {os.path.splitext(name)[0] for name in tree.pictures} | set(tree.pictures)
    others = [n for n in tree.names if os.path.splitext(n)[0] in stems and not is_picture(n)]
    if any(ending_of(n) == "xmp" for n in others):
        return "; there are .xmp files beside them: say --captions=inside"
    counts = Counter(ending_of(n) for n in others if ending_of(n) not in CAPTION_ENDINGS)
    ending, count = next(iter(counts.most_common(1)), ("", 0))
    if 2 * count < len(tree.pictures):
        return ""
    files = f"; there are {count:,} .{printable(ending)} files of the same names"
    if ending in _UNREAD_TABLES:
        return f"{files}, which are not read: write their captions into .txt files"
    return f"{files}: end them in .txt"


def _class_of(name: str) -> str:
    folder = os.path.basename(os.path.dirname(name)).removesuffix(".zip")
    return "" if is_split(folder) else folder

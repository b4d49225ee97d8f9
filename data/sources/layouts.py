"""Recognises the layout of a folder: one function per kind, which returns the source or None."""

import os
import re
from collections.abc import Sequence

from data.sources import arrow, listed, texts
from data.sources.base import Source, Unused, counted, printable
from data.sources.columns import ColumnSource
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files import Tree, ending_of, is_picture
from data.sources.folder import FolderSource
from data.sources.names import caption_from_name, words_of
from data.sources.pairing import pair
from data.sources.parquet import ParquetTable, holds_pictures
from data.sources.places import Places
from data.sources.splits import is_split
from data.sources.tar import TarSource
from data.sources.tfrecord import TFRecordSource

TABLES = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet", "token")
_NO_CLASSES = re.compile(
    r"^(images?|imgs?|pictures?|photos?|data|files?|n\d{8}|\W*[a-z]?\d*)$", re.IGNORECASE
)
"""Names of folders without a meaning: ImageNet's n01440764, digits, single letters."""
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
    found = [tree.path(name) for name in tree.ending("tfrecord", "tfrecords")]
    return TFRecordSource(found, config) if found else None


def open_metadata(tree: Tree, config: ReadingConfig) -> Source | None:
    """metadata.csv, .jsonl or .parquet of Hugging Face's imagefolder."""
    names = [n for n in tree.names if re.fullmatch(r"metadata\.(csv|jsonl|parquet)", _last(n))]
    return _open_listed(tree, names, config, "metadata", "Hugging Face's imagefolder")


def open_beside(tree: Tree, config: ReadingConfig) -> Source | None:
    """Captions beside at least half of the pictures, or in their names."""
    source = FolderSource(tree, config)
    is_named = config.captions == "names"
    return source if len(source) and (is_named or 2 * source.num_captioned >= len(source)) else None


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
    names = [n for n in tree.ending("json") if re.search(r"caption|coco", _last(n), re.IGNORECASE)]
    return _open_listed(tree, names, config, "coco", "COCO captions")


def open_flickr(tree: Tree, config: ReadingConfig) -> Source | None:
    """Flickr8k's captions.txt and Flickr30k's results.csv."""
    known = ("captions.txt", "results.csv", "flickr8k.token.txt", "results_20130124.token")
    names = [n for n in tree.names if _last(n).lower() in known]
    return _open_listed(tree, names, config, "flickr", "Flickr captions")


def open_parquet(tree: Tree, config: ReadingConfig) -> Source | None:
    """Parquet files with pictures in them."""
    found = [tree.path(name) for name in tree.ending("parquet")]
    if not found or not holds_pictures(found[0]):
        return None
    table = ParquetTable(tree.folder, found)
    about = counted(len(found), "parquet file")
    return ColumnSource(table, "parquet", about, Places(tree), config)


def open_apart(tree: Tree, config: ReadingConfig) -> Source | None:
    """images/ beside captions/, with the same names in both."""
    said = [n for n in tree.ending(*("txt", "caption", "json")) if _last(n).lower() != "readme.txt"]
    tops = [_common(names) for names in (tree.pictures, said)]
    if not said or not tree.pictures or tops[0] == tops[1]:
        return None
    places = {name: i for i, name in enumerate(tree.names)}
    moved = list(tree.names)
    for name in said:
        moved[places[name]] = _under(name, tops[1])
    for name in tree.pictures:
        moved[places[name]] = _under(name, tops[0])
    unused = Unused()
    pairs = pair(moved, [places[n] for n in tree.pictures], unused)
    if not any(one.texts for one in pairs):
        return None
    pairs = [type(p)(os.path.splitext(tree.names[p.picture])[0], p.picture, p.texts) for p in pairs]
    source = FolderSource(tree, config, pairs)
    source.unused.join(unused)
    source.kind, source.about = "apart", f"{tops[0] or '.'}/ beside {tops[1] or '.'}/"
    return source


def open_classes(tree: Tree, config: ReadingConfig) -> Source | None:
    """Folders named by class, unless the names have no meaning."""
    classes = {name: _class_of(name) for name in tree.pictures}
    some = set(classes.values())
    named = config.kind == "classes"
    if not named and (len(some) < 2 or any(not one or _NO_CLASSES.match(one) for one in some)):
        return None
    entries = []
    for name, one in classes.items():
        words = (words_of(one) or one) if one else ""
        said = [config.caption_template.replace("{}", words)] if words else []
        entries.append(listed.Entry(name, list(texts.weighed(said).captions)))
    listed.split_by_folders(entries)
    about = counted(len(some), "folder") + " named by class"
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
    if not names or not tree.pictures or config.captions == "names":
        return None
    entries, used, unused = listed.read_tables(tree, Places(tree), names, config)
    if not entries:
        return None
    about = f"{about} ({', '.join(used[:3])}{' …' if len(used) > 3 else ''})"
    columns = listed.names_of(tree, used)
    sought = f"the columns of its tables are {columns}; --caption_column names one"
    source = listed.ListedSource(tree, entries, kind, about, used, config, sought)
    source.unused.join(unused)
    return source


def _table_names(tree: Tree) -> list[str]:
    """Names of tables, without JSON files that have the name of a picture."""
    stems = {os.path.splitext(name)[0] for name in tree.pictures} | set(tree.pictures)
    free = [name for name in tree.names if os.path.splitext(name)[0] not in stems]
    texts = [name for name in free if ending_of(name) == "txt"]
    if len(texts) > _MOST_TEXTS:
        texts = [name for name in texts if "/" not in name][:_MOST_TEXTS]
    return [name for name in free if ending_of(name) in TABLES or name in texts]


def tell_unused(tree: Tree, sought: str, config: ReadingConfig = PLAIN) -> str:
    """The text `sought`, with files and folders that may be meant instead."""
    tables = [name for name in tree.ending(*TABLES, "txt") if _last(name).lower() != "readme.txt"]
    if tables:
        others = ", ".join(printable(name) for name in tables[:3])
        sought += f" (there are {others}, which name none of its pictures)"
    said = sorted(c[0][0] for c in map(caption_from_name, tree.pictures) if c)
    if said and config.captions != "names":
        some = ", ".join(f'"{printable(one)}"' for one in said[:: max(len(said) // 3, 1)][:3])
        sought += f"; if their names are captions ({some} …), say --captions=names"
    folders = sorted({_class_of(name) for name in tree.pictures} - {""})
    if len(folders) > 1:
        some = ", ".join(printable(name) for name in folders[:3])
        sought += f"; if its folders are classes ({some} …), say --kind=classes"
    return sought


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _common(names: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(n) for n in names]) if names else ""


def _under(name: str, top: str) -> str:
    return os.path.relpath(name, top) if top else name


def _class_of(name: str) -> str:
    folder = os.path.basename(os.path.dirname(name)).removesuffix(".zip")
    return "" if is_split(folder) else folder

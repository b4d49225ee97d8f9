"""Sources by what a user names: folders, files, globs, ranges, addresses, names on the hub."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from data.sources import kinds, layouts
from data.sources.base import Source, printable
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files import remote
from data.sources.files.addresses import (
    HUB,
    RemoteError,
    check_scheme,
    find,
    scheme_of,
    without_secrets,
)
from data.sources.files.tree import (
    CAPTION_ENDINGS,
    SPREADSHEETS,
    TABLE_ENDINGS,
    among,
    ending_of,
    is_picture,
    walk,
)
from data.sources.joined import JoinedSource
from data.sources.kinds import open_files, open_tree
from data.sources.pairs.tar import TarSource

_HUB = re.compile(r"^(?!\.)[\w.-]+/[\w.-]+$")
_FILES = ("tar", "zip", "tfrecord", *layouts.TABLES, "txt")
_WITH_NAMES = ("folder", "apart", "each", "tar")
"""Kinds of sources whose captions may be the names of the pictures."""


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
    if config.kind and config.kind not in {kind.name for kind in kinds.KINDS}:
        names = ", ".join(kind.name for kind in kinds.KINDS)
        raise ValueError(f"no kind {config.kind!r} of source; there are: {names}")
    paths = [str(path)] if isinstance(path, str | Path) else [str(part) for part in path]
    try:
        sources = _open_paths(paths, config)
        return _joined(sources, paths, need_captions, config.captions)
    except RemoteError as error:
        raise ValueError(str(error)) from None


def _open_paths(paths: list[str], config: ReadingConfig) -> Sequence[Source]:
    """The source at each path. Several tars are one source, and so are pictures and captions that a
    shell's FOLDER/* names."""
    if not paths:
        raise ValueError("no source is named")
    if len(paths) > 1 and all(_is_file(path) and path.endswith(".tar") for path in paths):
        return [TarSource([Path(path) for path in paths], None, config)]
    paths = [name for path in paths for name in _named_by_star(path)]
    pictures = [path for path in paths if is_picture(path) and _is_file(path)]
    if not pictures:
        return [_open_path(path, config) for path in paths]
    endings = (*CAPTION_ENDINGS, *TABLE_ENDINGS)
    beside = [path for path in paths if ending_of(path) in endings and _is_file(path)]
    together = open_tree(among([Path(path) for path in pictures]), config)
    taken = {*pictures, *beside}
    others = [path for path in paths if path not in taken]
    return [together, *(_open_path(path, config) for path in others)]


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def _named_by_star(path: str) -> list[str]:
    """The files of FOLDER/*, as a shell expands it, if a picture is among them; else the path
    alone."""
    whole = os.path.expanduser(path)
    if scheme_of(path) or Path(whole).exists() or not glob.has_magic(whole):
        return [path]
    paths = sorted(glob.glob(whole))
    return paths if any(is_picture(name) for name in paths) else [path]


def _joined(
    sources: Sequence[Source], paths: Sequence[str], need_captions: bool, where: str
) -> Source:
    """The sources as one. Raises ValueError if it has no picture, or lacks the captions: any
    captions, or those in the pictures or their names (`where`)."""
    for part in sources if where != "beside" else ():
        if part.kind not in _WITH_NAMES and len(part):
            raise ValueError(
                f"{printable(str(part.path))} is {part.about}, whose pictures have no names of "
                f"their own: omit --captions={where}"
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


def _open_path(path: str, config: ReadingConfig) -> Source:
    """The source at one path, address, glob, list or range."""
    if scheme_of(path) and not Path(path).exists():
        return _open_address(path, config)
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return open_tree(walk(folder), config)
    if _HUB.match(path) and not folder.exists():
        return _open_from_hub(path, config)
    return open_files(_find(path), config)


def _open_address(address: str, config: ReadingConfig) -> Source:
    """The source at an address: files by their endings, anything else as a folder."""
    import braceexpand

    if check_scheme(address) == "hf" and not address.startswith((HUB, "hf://buckets/")):
        name = address.removeprefix("hf://")
        raise ValueError(f"{printable(address)} is no data set of the hub; try {HUB}{name}")
    addresses = [place for pattern in braceexpand.braceexpand(address) for place in find(pattern)]
    if not addresses:
        raise ValueError(f"{printable(address)} matches nothing")
    if all(ending_of(urlsplit(place).path) in _FILES for place in addresses):
        return open_files(remote.open_files(addresses), config)
    if len(addresses) > 1:
        return JoinedSource([_open_address(place, config) for place in addresses])
    return open_tree(remote.open_folder(addresses[0]).tree(), config)


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


def _find(path: str) -> list[Path]:
    """The files that a path, glob, list or range names."""
    whole = Path(os.path.expanduser(path))
    patterns = [str(whole)] if whole.exists() else _expanded(str(whole))
    paths = [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
    gone = [file for file in paths if not file.exists()]
    if 0 < len(gone) < len(paths):
        raise ValueError(
            f"{printable(path)} names {len(paths):,} files, of which {len(gone):,} are not there, "
            f"such as {printable(str(gone[0]))}; '{printable(str(gone[0].parent))}/*"
            f"{printable(gone[0].suffix)}' names those that are there"
        )
    for file in paths:
        if not file.exists():
            raise ValueError(
                f"there is no {printable(str(file))}: a source is a folder of pictures or tars, or "
                f"tars, tables or zips"
            )
        if ending_of(file.name) in SPREADSHEETS:
            raise ValueError(f"{printable(str(file))} is a spreadsheet; save it as CSV")
        if not file.is_file() or not (is_picture(file.name) or ending_of(file.name) in _FILES):
            endings = ", ".join(f".{ending}" for ending in _FILES)
            raise ValueError(
                f"{printable(str(file))} is not a .tar file (unpack compressed ones first), "
                f"and none of {endings}"
            )
    return paths


def _expanded(path: str) -> Iterable[str]:
    """The paths of a range. A backslash is a letter, as in Windows' paths, unless it is before a
    brace."""
    import braceexpand

    return braceexpand.braceexpand(path, escape="\\{" in path or "\\}" in path)


def _shown(path: str) -> str:
    return without_secrets(path) if "://" in path else path

"""Zip files of pictures with captions beside them: nothing is unpacked to the disk."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from data.pictures import MAX_BYTES
from data.sources.base import MAX_CAPTION_BYTES, Example, Source, Unused, counted, printable
from data.sources.config import PLAIN, ReadingConfig
from data.sources.files import CAPTION_ENDINGS, ending_of, is_picture
from data.sources.folder import beside_about, example_beside
from data.sources.names import caption_from_name
from data.sources.pairing import Pair, pair

_MAX_MEMBERS = 4_000_000  # zipfile holds half a kilobyte for each


class ZipSource(Source):
    """Members of zip files, one file after the other."""

    kind = "zip"

    def __init__(self, files: Sequence[Path], config: ReadingConfig = PLAIN) -> None:
        self.path = files[0].parent if len(files) > 1 else files[0]
        self.files, self.config = list(files), config
        self.damage, self.unused = {}, Unused()
        self._pairs: list[tuple[Path, list[str], Pair]] = []
        for file in files:
            names = self._members(file)
            pictures = [i for i, name in enumerate(names) if is_picture(name)]
            for name in names:
                if not is_picture(name) and ending_of(name) not in CAPTION_ENDINGS:
                    self.unused.add("members that are neither pictures nor captions", name)
            self._pairs += [(file, names, p) for p in pair(names, pictures, self.unused)]
        self.num_captioned = sum(
            bool(caption_from_name(names[p.picture]) if config.captions == "names" else p.texts)
            for _, names, p in self._pairs
        )
        self.about = beside_about(counted(len(files), "zip") + " of pictures", config)
        self.sought = "none of its pictures has a .txt or .json of the same name beside it"

    def _members(self, file: Path) -> list[str]:
        try:
            with zipfile.ZipFile(file) as opened:
                found = opened.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            self.damage[file.name] = printable(str(error))
            return []
        if len(found) > _MAX_MEMBERS:
            raise ValueError(f"{file} has more than {_MAX_MEMBERS:,} members; unpack it")
        return [one.filename for one in found if not one.is_dir() and not _is_hidden(one.filename)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        file, names, one = self._pairs[index]
        name = names[one.picture]
        try:
            with zipfile.ZipFile(file) as opened:
                data = _read(opened, name, MAX_BYTES)
                said = {e: _read(opened, names[i], MAX_CAPTION_BYTES) for e, i in one.texts}
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            zlib.error,
            EOFError,
        ) as error:
            # zipfile raises RuntimeError for encrypted members.
            missing = f"cannot be unpacked: {printable(str(error))}"
            return Example(one.key, b"", (("", 1.0),), "", {}, file.name, name, missing=missing)
        return example_beside(
            one.key, data, said, file.name, self.config, self.config.caption_encoding, name
        )


def _is_hidden(name: str) -> bool:
    """True for members that macOS adds, or that are hidden as in a folder."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _read(opened: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with opened.open(name) as member:
        return member.read(limit + 1)

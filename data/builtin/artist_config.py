"""The settings of data.artists and data.composed, the drawings they name, and what decides their
bytes."""

import hashlib
import importlib.metadata
import io
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.json_files import Json
from data.builtin.artist_sets import IconSet, fetch_packages, open_sets, read_shipped
from data.builtin.artist_things import Subset
from data.builtin.drawings import TABLE

MARKER = "artists.json"
PACKAGES = Path("pictures/packages")
LICENSES = "LICENSES.md"
RECIPE = tuple(
    Path(__file__).parents[1] / name
    for name in (
        "artists.py",
        "builtin/artist_config.py",
        "builtin/artist_sets.py",
        "builtin/artist_splits.py",
        "builtin/artist_things.py",
        "builtin/artist_words.py",
        "builtin/wording.py",
    )
)


@dataclass(frozen=True)
class ArtistsConfig:
    """The pictures to write, and the folder for them."""

    out: str = "pictures/things"
    """Folder for the tars; it must be new, or hold what the same command wrote before."""
    packages: str = ""
    """Folder of the npm packages, packed or not. Default: for things the drawings in this
    repository; for the others pictures/packages, where npm pack puts missing packages."""
    subset: Subset = "things"
    """Subset of the things: about a hundred (things), about six hundred that people ask for first
    (everyday), those that six artists and more have drawn, without people, flags, clocks and
    buttons (common), or all, with skin tones."""
    image_size: int = 64
    """Width and height in pixels; vqgan/general reads 64, demo_large/vqgan 128."""


def find_sets(config: ArtistsConfig) -> list[IconSet]:
    """The artists' drawings: of a named folder, shipped, or fetched."""
    if config.packages:
        return open_sets(Path(config.packages))
    if config.subset == "things":
        return read_shipped()
    fetch_packages(PACKAGES)
    return open_sets(PACKAGES)


def digest_of_code(paths: Sequence[Path]) -> str:
    """A short hash of Python files that does not change with their comments and docstrings, and of
    the bytes of other files."""
    hashed = hashlib.blake2b(digest_size=8)
    for path in paths:
        content = path.read_bytes()
        hashed.update(_code(content).encode() if path.suffix == ".py" else content)
    return hashed.hexdigest()


def _code(content: bytes) -> str:
    """Python's lines without comments, docstrings and empty lines. The rest stays as it is typed,
    because the texts of ast.unparse and ast.dump differ between versions of Python."""
    lines, spans, before = content.decode("utf-8").split("\n"), [], tokenize.NEWLINE
    for token in tokenize.tokenize(io.BytesIO(content).readline):
        is_docstring = token.type == tokenize.STRING and before in _BEFORE_DOCSTRING
        if token.type == tokenize.COMMENT or is_docstring:
            spans.append((*token.start, *token.end))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    for first, start, last, end in reversed(spans):
        lines[first - 1] = lines[first - 1][:start] + lines[last - 1][end:]
        lines[first:last] = [""] * (last - first)
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())


_BEFORE_DOCSTRING = (tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def describe(config: ArtistsConfig, sets: Sequence[IconSet]) -> Json:
    """All settings and sources that decide the bytes of the tars."""
    versions = {icons.package: icons.version for icons in sets}
    return {
        "subset": config.subset,
        "image_size": config.image_size,
        "packages": {**versions, "resvg-py": importlib.metadata.version("resvg-py")},
        "recipe": digest_of_code((TABLE, *RECIPE)),
        "composed": None,
    }

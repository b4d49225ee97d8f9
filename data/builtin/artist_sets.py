"""The icon sets of eight artists, from npm packages, joined by code point and by name.

Each package holds one `icons.json` (bodies of SVGs by slug) and some a `chars.json` (slugs by code
point). Names, groups and skin tones come from OpenMoji's table, which is CLDR's for all emoji.
"""

import dataclasses
import gzip
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.json_files import Json
from data.builtin.openmoji_splits import Emoji

STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent-emoji-flat": "fluent",
    "fluent-emoji": "fluent 3d",
    "emojione": "emojione",
    "noto-v1": "blob",
    "openmoji": "openmoji",
    "fxemoji": "firefox",
}
"""Name of the style in captions by package @iconify-json/NAME."""
SHIPPED = Path(__file__).parent / "things.json.gz"
# Offensive gestures are neither drawn nor learnt.
OFFENSIVE = frozenset({"1F595"})
_VARIATION = ("FE0F", "FE0E")  # text or emoji presentation: the same picture
_TEXT_LIMIT = 512 << 20


@dataclass(frozen=True)
class IconSet:
    """One artist's drawings."""

    package: str
    version: str
    style: str
    license: str
    author: str
    icons: Mapping[str, Json]
    """By slug: body, and, if they differ from the set's, left, top, width, height."""
    sides: Mapping[str, float]
    code_points: Mapping[str, str]
    """Hexcode by slug, for packages that list them."""

    def svg(self, slug: str) -> str:
        """The drawing as an SVG file with a square view."""
        icon = self.icons[slug]
        left, top, width, height = (
            float(icon.get(name, self.sides[name])) for name in ("left", "top", "width", "height")
        )
        side = max(width, height)
        box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}">{icon["body"]}</svg>'
        )


@dataclass(frozen=True)
class Drawing:
    """One artist's picture of one thing."""

    emoji: Emoji
    style: str
    slug: str
    svg: str

    @property
    def key(self) -> str:
        """Unique name of the picture."""
        return f"{self.emoji.hexcode}-{self.style.replace(' ', '')}".lower()


def fetch_packages(folder: Path) -> None:
    """Download the packages that are not in `folder` yet, with `npm pack`.

    Raises:
        ValueError: npm is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in STYLES:
        if any(folder.glob(f"iconify-json-{name}-[0-9]*.tgz")):
            continue
        command = ["npm", "pack", "--silent", f"@iconify-json/{name}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise ValueError(
                "npm is not installed; install it, or name a folder that holds the packages "
                "with --packages"
            ) from None
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout).strip().splitlines()
            raise ValueError(
                f"{' '.join(command)} failed: {lines[0] if lines else error.returncode}; without a "
                f"network, name a folder that holds the packages with --packages"
            ) from None


def read_shipped() -> list[IconSet]:
    """The drawings of things.json.gz. THINGS_LICENSES.md beside it names their artists."""
    return [IconSet(**values) for values in json.loads(gzip.decompress(SHIPPED.read_bytes()))]


def write_shipped(sets: Sequence[IconSet], drawings: Sequence[Drawing], path: Path) -> None:
    """Write the chosen drawings of the sets, as `read_shipped` reads them. The bytes are the same
    every time."""
    content = []
    for icon_set in sets:
        codes = {
            plain_hexcode(d.emoji.hexcode): d.slug for d in drawings if d.style == icon_set.style
        }
        icons = {code: icon_set.icons[slug] for code, slug in codes.items()}
        kept = {"icons": icons, "code_points": {code: code for code in codes}}
        content.append({**dataclasses.asdict(icon_set), **kept})
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def open_sets(folder: Path) -> list[IconSet]:
    """The known sets below a folder: packed (.tgz), unpacked, or a node_modules.

    Raises:
        ValueError: some of the packages are missing, or one is damaged.
    """
    set_of = {}
    for path, files in _packages(folder):
        about = _json(files.get("package.json"), path / "package.json")
        name = str(about.get("name", "")).removeprefix("@iconify-json/")
        if name in STYLES:
            set_of[name] = _icon_set(name, str(about.get("version", "")), files, path)
    missing = [f"@iconify-json/{name}" for name in STYLES if name not in set_of]
    if missing:
        raise ValueError(
            f"{folder} does not hold {', '.join(missing)}; fetch them there with "
            f"npm pack {' '.join(missing)}"
        )
    return [set_of[name] for name in STYLES]


def _packages(folder: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Path and the JSON files of each package below the folder."""
    for path in sorted(folder.glob("**/*.tgz")):
        try:
            with tarfile.open(path, "r:gz") as tar:
                members = [m for m in tar if m.isfile() and m.name.endswith(".json")]
                yield path, {Path(m.name).name: _member(tar, m) for m in members}
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}; fetch it again") from None
    for path in sorted(p.parent for p in folder.glob("**/icons.json")):
        yield path, {p.name: p.read_bytes() for p in path.glob("*.json")}


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read(_TEXT_LIMIT) if file else b""


def _json(data: bytes | None, path: Path) -> Json:
    try:
        content = json.loads(data or b"")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; fetch it again")
    return content


def _icon_set(name: str, version: str, files: Mapping[str, bytes], path: Path) -> IconSet:
    icons = _json(files.get("icons.json"), path / "icons.json")
    info = icons.get("info") or _json(files.get("info.json"), path / "info.json")
    chars = _json(files["chars.json"], path / "chars.json") if "chars.json" in files else {}
    size = float(icons.get("width") or icons.get("height") or 16)
    try:
        return IconSet(
            package=f"@iconify-json/{name}",
            version=version,
            style=STYLES[name],
            license=info["license"]["spdx"],
            author=info["author"]["name"],
            icons=icons["icons"],
            sides={
                "left": float(icons.get("left", 0)),
                "top": float(icons.get("top", 0)),
                "width": size,
                "height": float(icons.get("height") or size),
            },
            code_points={slug: plain_hexcode(code) for code, slug in chars.items()},
        )
    except KeyError as error:
        raise ValueError(f"{path} has no {error} of an icon set; fetch it again") from None


def plain_hexcode(code: str) -> str:
    """Upper case, without the selectors of text or emoji presentation."""
    return "-".join(part for part in code.upper().split("-") if part not in _VARIATION)


def squash(name: str) -> str:
    """The common form of slugs, names and aliases of one thing."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("_", " ").replace("-", " ")).replace(
        "skintone", ""
    )


def join(sets: Sequence[IconSet], emojis: Sequence[Emoji]) -> list[Drawing]:
    """Each set's drawing of each emoji, in the table's order. If two slugs mean one emoji, the
    first is taken. Drawings of no emoji and offensive gestures are skipped."""
    table = {plain_hexcode(e.hexcode): e for e in emojis}
    by_name = _names(sets, table)
    drawing_of: dict[tuple[str, str], Drawing] = {}
    for icon_set in sets:
        for slug in icon_set.icons:
            code = icon_set.code_points.get(slug)
            code = code if code in table else by_name.get(squash(slug))
            if code and not _is_offensive(table[code]):
                drawing_of.setdefault(
                    (code, icon_set.style),
                    Drawing(table[code], icon_set.style, slug, icon_set.svg(slug)),
                )
    styles = [icon_set.style for icon_set in sets]
    return [
        drawing_of[code, style] for code in table for style in styles if (code, style) in drawing_of
    ]


def _is_offensive(emoji: Emoji) -> bool:
    return not OFFENSIVE.isdisjoint(plain_hexcode(emoji.hexcode).split("-"))


def _names(sets: Sequence[IconSet], table: Mapping[str, Emoji]) -> dict[str, str]:
    """Hexcode by squashed name. The table's names come first, then the slugs of sets with code
    points, then the aliases of the package `emoji`."""
    import emoji

    names: dict[str, str] = {}
    for code, row in table.items():
        names.setdefault(squash(row.name), code)
    for icon_set in sets:
        for slug, code in icon_set.code_points.items():
            if code in table:
                names.setdefault(squash(slug), code)
    for character, about in emoji.EMOJI_DATA.items():
        code = plain_hexcode("-".join(f"{ord(c):04X}" for c in character))
        if code in table:
            for name in (about["en"], *about.get("alias", [])):
                names.setdefault(squash(name), code)
    return names


def licenses(sets: Sequence[IconSet]) -> str:
    """A page that lists the artists and licences of the drawings."""
    rows = "\n".join(
        f"| {icon_set.style} | {icon_set.package} {icon_set.version} | {icon_set.author} "
        f"| {icon_set.license} |"
        for icon_set in sets
    )
    return (
        "# Licences of the drawings\n\n"
        "They were rasterised from SVG, on white, and are otherwise unchanged; each picture's JSON "
        "names its licence.\n\n"
        "| style | package | drawn by | licence |\n| --- | --- | --- | --- |\n"
        f"{rows}\n"
    )

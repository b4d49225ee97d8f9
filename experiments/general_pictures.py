"""Writes the pictures that the general tokenizer is trained on, as webdataset tars: emoji of eight
artists, clip art, icons, photographs and textures with free licences, from npm and Debian packages.

    mkdir deb npm; cd npm; npm pack @iconify-json/noto …    # data/builtin/artist_sets.py
    cd ../deb; apt-get download gnome-backgrounds …   # the names in SOURCES and HELD_OUT
    for f in *.deb; do dpkg-deb -x $f ${f%%_*}; done; cd ..
    python -m experiments.general_pictures --npm npm --deb deb --out pictures/general

Nothing is random: views are chosen by crc32 of a picture's name. Pictures of HELD_OUT packages are
never trained on.
"""

import argparse
import io
import json
import re
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from common.pixels import as_png
from common.split_names import NOT_HELD_OUT, TRAIN
from data.builtin.artist_sets import join, open_sets
from data.builtin.artist_splits import rasterise_and_split
from data.builtin.drawings import read_table

SIDE = 64
SMALLEST = 48  # pixels; smaller pictures would only be enlarged
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".svg", ".tga")
# Package: (pattern of its files, largest number of views of one picture).
SOURCES = {
    "openclipart-svg": (r"\.svg$", 1),
    "papirus-icon-theme": (r"/Papirus/64x64/apps/[a-m].*\.svg$", 1),
    "oxygen-icon-theme": (r"/128x128/.*\.png$", 1),
    "mate-icon-theme": (r"/(256x256|scalable)/.*\.(png|svg)$", 1),
    "fillets-ng-data": (r"\.png$", 1),
    "plasma-workspace-wallpapers": (r"/(1920x1080|2560x1600|3840x2160|5120x2880)\.(jpg|png)$", 64),
    "mate-backgrounds": (r"\.(jpg|png)$", 64),
    "lomiri-wallpapers-16.04": (r"\.jpg$", 64),
    "ukui-wallpapers": (r"\.(jpg|png)$", 64),
    "stellarium-data": (r"/(landscapes|nebulae|textures)/.*\.(png|jpg)$", 12),
    "gcompris-qt-data": (r"\.rcc$", 6),
    "wesnoth-1.16-data": (r"/(portraits|story|images/terrain|attacks)/.*\.(png|webp|jpg)$", 3),
    "openarena-081-textures": (r"\.pk3$", 3),
    "colobot-common-textures": (r"\.png$", 8),
    "extremetuxracer-data": (r"\.png$", 6),
    "krita-data": (r"\.(png|jpg)$", 4),
    "gimp-data": (r"/patterns/.*|\.jpg$", 4),
    "mypaint-data-extras": (r"\.png$", 8),
    "propaganda-debian": (r"\.jpg$", 8),
    "fotoxx-common": (r"/(images|patterns)/[^/]*\.(jpg|png)$", 2),
    "tuxmath-data": (r"/(backgrounds|castle|tux)/.*\.(jpg|png)$", 4),
    "kstars-data": (r"/textures/.*\.(jpg|png)$", 6),
    "desktop-base": (r"\.(jpg|png)$", 1),
    "freeciv-data": (r"\.png$", 4),
}
HELD_OUT = {
    "stamps": {"tuxpaint-stamps-default": r"\.(png|svg)$"},
    "photographs": {
        "python3-skimage": r"/skimage/data/[^/]*\.(png|jpg)$",
        "opencv-doc": r"/examples/data/[^/]*\.(png|jpg)$",
        "lomiri-wallpapers-20.04": r"\.jpg$",
        "gnome-backgrounds": r"\.webp$",
    },
}
Box = tuple[float, float, float, float]
_SIGNATURES = rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff\xe0|RIFF....WEBP"


def main() -> None:
    """Write the tars, and print the number of pictures from each package."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("npm", "deb", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--part", choices=("emoji", "foreign"), help="one tar of the two")
    arguments = parser.parse_args()
    for part, pictures in (("emoji", emoji(arguments.npm)), ("foreign", foreign(arguments.deb))):
        if arguments.part in (None, part):
            write_tar(arguments.out, part, pictures)


def write_tar(out: Path, part: str, pictures: Iterator[tuple[str, str, bytes]]) -> None:
    """Write OUT/PART.tar of PNG and JSON files, and OUT/PART.json with the number of pictures from
    each package."""
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with tarfile.open(out / f"{part}.tar", "w") as tar:
        for key, split, png in pictures:
            counts[f"{key.partition('/')[0]} {split}"] += 1
            name = f"{part}-{sum(counts.values()):06d}"
            about = json.dumps({"split": split, "url": key}).encode()
            for ending, data in (("png", png), ("json", about)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (out / f"{part}.json").write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")
    print(json.dumps(counts, indent=1))


def emoji(npm: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, split, PNG) of each of the artists' drawings. Drawings that data.artists holds out are
    held out here, too."""
    drawings = join(open_sets(npm), read_table())
    pictures, splits = rasterise_and_split(drawings, SIDE)
    for drawing in drawings:
        split = splits[drawing.key]
        asked = split if split in NOT_HELD_OUT else f"artists_{split}"
        yield f"emoji-{drawing.style.replace(' ', '-')}/{drawing.key}", asked, pictures[drawing.key]


def foreign(deb: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, split, PNG) of each picture in the Debian packages."""
    for package, (pattern, views) in SOURCES.items():
        for name, data in files(deb / package, pattern):
            for number, png in enumerate(read(name, data, views)):
                yield f"{package}/{name}#{number}", TRAIN, png
    for split, packages in HELD_OUT.items():
        for package, pattern in packages.items():
            for name, data in files(deb / package, pattern):
                for png in read(name, data, 1):
                    yield f"{package}/{name}", split, png


def files(folder: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of a package that matches the pattern, also inside archives."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name = f"/{path.relative_to(folder)}"
        if not re.search(pattern, name):
            continue
        if path.suffix == ".pk3":
            with zipfile.ZipFile(path) as archive:
                for inner in archive.namelist():
                    if inner.lower().endswith(ENDINGS):
                        yield f"{name}/{inner}", archive.read(inner)
        elif path.suffix == ".rcc":
            data = path.read_bytes()
            for match in re.finditer(_SIGNATURES, data, re.DOTALL):
                yield f"{name}@{match.start()}", data[match.start() :]
        elif path.suffix.lower() in ENDINGS:
            yield name, path.read_bytes()


def read(name: str, data: bytes, views: int) -> Iterator[bytes]:
    """The PNGs of up to `views` views of one picture; none if it is unreadable or too small."""
    if name.endswith(".svg"):
        try:
            yield draw_svg(data)
        except Exception as error:  # old clip art is damaged in many ways
            print(f"{name}: {error}", file=sys.stderr)
        return
    try:
        with Image.open(io.BytesIO(data)) as picture:
            layer = ImageOps.exif_transpose(picture).convert("RGBA")
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return
    if min(layer.size) < SMALLEST or max(layer.size) > 8192:
        return
    whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if np.asarray(whole.resize((8, 8))).std() < 2:
        return  # empty
    for box in boxes(whole.size, name, views):
        view = whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
        yield as_png(view)


def draw_svg(data: bytes) -> bytes:
    """An SVG drawing as a PNG: the whole drawing, centred in a white square."""
    import resvg_py

    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=data.decode("utf-8", "replace"),
            width=SIDE,
            background="white",
            skip_system_fonts=True,
        )
    )
    with Image.open(io.BytesIO(png)) as picture:
        square = ImageOps.pad(picture.convert("RGB"), (SIDE, SIDE), color="white")
    return as_png(square)


def boxes(size: tuple[int, int], name: str, views: int) -> Iterator[Box]:
    """Up to `views` squares: the central one, then others of different places and sizes. None is
    smaller than SIDE."""
    width, height = size
    least = min(size)
    yield (width - least) / 2, (height - least) / 2, (width + least) / 2, (height + least) / 2
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(min(views, width * height // (2 * SIDE) ** 2) - 1):
        side = least * np.exp(random.uniform(np.log(max(min(1.0, SIDE / least), 0.15)), 0))
        left, top = random.uniform(0, width - side), random.uniform(0, height - side)
        yield left, top, left + side, top + side


if __name__ == "__main__":
    main()

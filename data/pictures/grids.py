"""Picture grids with prompts as labels, and PNG files with metadata.

Pictures are enlarged by whole factors without smoothing, so every pixel is visible.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from common.files import new_file
from data.text.tokens import clean

PAGE, INK, FAINT = (240, 240, 237), (45, 45, 48), (140, 140, 140)
MARGIN, GAP, TEXT_GAP, BLOCK_GAP = 20, 8, 5, 14
TEXT_SIZE, LINE_HEIGHT = 15, 20
NOTE_SIZE, NOTE_HEIGHT = 11, 15
SHOWN_SIDE = 128
"""Side in pixels to which pictures are enlarged by default."""
MAX_CELL_LINES, MAX_BLOCK_LINES = 5, 2
GIF_COMMENT = "drawn by Pastel: "
GIF_MS = 2000  # of an animation, and of the pause after it
EMPTY_PROMPT = "(empty prompt)"
# Tried for prompts whose letters Pillow's own font lacks; fonts that are not installed are skipped.
OTHER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture_grid(
    prompts: Sequence[str],
    pictures: UInt8[np.ndarray, "p k y x 3"],
    scale: int | None = None,
    notes: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """A page with the k pictures of each prompt, and the prompt below them: one block per line; for
    k = 1, several. `notes` are short lines below the pictures."""
    count, per_prompt, height, width, _ = pictures.shape
    if count != len(prompts) or not count or not per_prompt:
        raise ValueError(f"{len(prompts)} prompts do not name {count} × {per_prompt} pictures")
    scale = scale or max(1, round(SHOWN_SIDE / width))
    step_x, step_y = width * scale + GAP, height * scale + GAP + (NOTE_HEIGHT if notes else 0)
    columns = _fitting_columns(count, per_prompt)
    per_line = min(columns, per_prompt)
    side_by_side = min(columns, count) if per_prompt == 1 else 1
    size = per_line * step_x - GAP, -(-per_prompt // per_line) * step_y - GAP
    max_lines = MAX_CELL_LINES if per_prompt == 1 else MAX_BLOCK_LINES
    lines = [_wrap(prompt, size[0], max_lines) for prompt in prompts]
    page = _Page(side_by_side, size, lines)
    for i, of_prompt in enumerate(pictures):
        left, top = page.corner(i)
        for j, picture in enumerate(of_prompt):
            down, right = divmod(j, per_line)
            corner = left + right * step_x, top + down * step_y
            page.image.paste(enlarge(picture, scale), corner)
            if notes:
                page.note(notes[i][j], corner[0], corner[1] + height * scale, width * scale)
        page.write(lines[i], left, top + size[1] + TEXT_GAP, centred=per_prompt == 1)
    return page.image


def _fitting_columns(count: int, per_prompt: int) -> int:
    """The number of blocks per line: single pictures fill a page that is a bit wider than high;
    blocks are in equal lines of at most 10."""
    if per_prompt == 1:
        wanted = (count * 1.6) ** 0.5
        return min(count, min(range(4, 13), key=lambda n: abs(n - wanted) + -count % n))
    return -(-per_prompt // -(-per_prompt // 10))


class _Page:
    """A page of blocks of one size, with room for lines of text below each."""

    def __init__(self, columns: int, size: tuple[int, int], lines: list[list[str]]) -> None:
        self._columns, self._width = columns, size[0]
        self._tops = [MARGIN]
        for i in range(0, len(lines), columns):
            text_height = max(map(len, lines[i : i + columns])) * LINE_HEIGHT
            self._tops.append(self._tops[-1] + size[1] + TEXT_GAP + text_height + BLOCK_GAP)
        right = 2 * MARGIN + columns * (self._width + GAP) - GAP
        self.image = Image.new("RGB", (right, self._tops[-1] - BLOCK_GAP + MARGIN), PAGE)
        self._pen = ImageDraw.Draw(self.image)

    def corner(self, block: int) -> tuple[int, int]:
        """(left, top) of a block; blocks are numbered line by line."""
        line, column = divmod(block, self._columns)
        return MARGIN + column * (self._width + GAP), self._tops[line]

    def note(self, text: str, left: int, top: int, width: int) -> None:
        """Write a grey line below a picture, if the picture is wide enough."""
        if (length := _note_font().getlength(text)) <= width:
            self._pen.text((left + (width - length) / 2, top), text, FAINT, _note_font())

    def write(self, lines: list[str], left: int, top: int, centred: bool) -> None:
        """Write lines of text, one below the other."""
        for i, line in enumerate(lines):
            font = _font_for(line)
            indent = (self._width - font.getlength(line)) / 2 if centred else 0
            colour = FAINT if line == EMPTY_PROMPT else INK
            self._pen.text((left + indent, top + i * LINE_HEIGHT), line, colour, font)


def enlarge(picture: UInt8[np.ndarray, "y x 3"], scale: int) -> Image.Image:
    """The picture with every pixel repeated scale × scale times."""
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def _wrap(prompt: str, width: int, max_lines: int) -> list[str]:
    """The prompt in lines that fit, broken between words if possible; an ellipsis truncates it."""
    lines: list[str] = []
    rest = clean(prompt) or EMPTY_PROMPT
    font = _font_for(rest)
    while rest and len(lines) < max_lines:
        fits = _fitting_characters(rest, font, width)
        space = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else -1
        lines.append(rest[: space if space > 0 else fits])
        rest = rest[len(lines[-1]) :].lstrip()
    if rest:
        fits = _fitting_characters(lines[-1] + "…" * 2, font, width) - 1
        lines[-1] = lines[-1][:fits].rstrip() + "…"
    return lines


def _fitting_characters(text: str, font: Font, width: int) -> int:
    """The number of leading characters that fit, by bisection; at least one."""
    low, high = 1, min(len(text), 4 * width)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


@cache
def _note_font() -> Font:
    return ImageFont.load_default(NOTE_SIZE)


@cache
def _fonts() -> list[Font]:
    """Pillow's own font, which every machine has, then fonts with more characters."""
    fonts: list[Font] = [ImageFont.load_default(TEXT_SIZE)]
    for name in OTHER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, TEXT_SIZE - 1))
        except OSError:
            continue
    return fonts


def _font_for(text: str) -> Font:
    """The first font that has a glyph for most of the text."""
    return max(_fonts(), key=lambda font: sum(_has_glyph(font, letter) for letter in set(text)))


@cache
def _has_glyph(font: Font, letter: str) -> bool:
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))


def save_png(
    path: Path,
    picture: UInt8[np.ndarray, "y x 3"] | Image.Image,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write a PNG, atomically, with text fields (`prompt`, `seed`, `settings`, …). Values that are
    not text are written as JSON."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    info = PngInfo()
    for name, value in (about or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        info.add_itxt(name, text.encode("utf-8", "replace").decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as beside:
        image.save(beside, format="PNG", pnginfo=info, optimize=True)


def save_gif(path: Path, frames: UInt8[np.ndarray, "s y x 3"], about: str) -> None:
    """Write an animation of two seconds, atomically. It pauses at its end."""
    scale = max(1, round(SHOWN_SIDE / frames.shape[2]))
    first, *others = (enlarge(frame, scale) for frame in frames)
    each = max(20, round(GIF_MS / len(frames)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as beside:
        durations = [*[each] * len(others), GIF_MS]
        comment = (GIF_COMMENT + about).encode("utf-8", "replace")[:255]
        first.save(
            beside,
            "GIF",
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            comment=comment,
        )


def is_drawn(path: Path) -> bool:
    """True if a file is a PNG that `save_png` wrote with the fields of a drawn picture, or a GIF of
    `save_gif`."""
    try:
        with Image.open(path) as image:
            if image.format == "GIF":
                return bytes(image.info.get("comment", b"")).startswith(GIF_COMMENT.encode())
            return image.format == "PNG" and not {"settings", "prompts"}.isdisjoint(image.info)
    except (OSError, ValueError, SyntaxError):
        return False

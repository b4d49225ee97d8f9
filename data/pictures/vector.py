"""SVG drawings → PNG files of a size. The bytes of a drawing are not trusted."""

import re
import subprocess
import sys
import zlib
from pathlib import Path

MAX_TEXT = 16 << 20  # bytes of a drawing; compressed ones may be much larger than their files
_SECONDS = 60
_HEAD = 1 << 14  # bytes that `<svg` begins in
_PROGRAM = Path(__file__).with_name("draw_svg.py")
_BEFORE = rb"\s++|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*+(?:\[.*?\]\s*+)?>"
_START = re.compile(rb"(?:\xef\xbb\xbf)?(?>%s)*+<(?:\w+:)?svg\b" % _BEFORE, re.DOTALL)
"""Programs write a declaration, comments and entities before the first element."""
_ROOT = re.compile(rb"<(?:\w+:)?svg\b[^>]*>")
_BOX = re.compile(rb"\bviewBox\s*=\s*[\"']([^\"']*)")
_LENGTH = rb"\b%s\s*=\s*[\"']\s*([\d.]+)\s*(?:px|pt|mm|cm|in)?\s*[\"']"
_DECLARED = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([\w-]+)")


def is_drawing(data: bytes) -> bool:
    """True for the bytes of an SVG file, compressed (.svgz) or not."""
    head = _inflated(data, _HEAD) if data.startswith(b"\x1f\x8b") else data[:_HEAD]
    return _START.match(head) is not None


def drawn(data: bytes, size: int) -> bytes:
    """The drawing as a PNG file whose longer side has `size` pixels. Raises ValueError if it cannot
    be drawn. Texts are not drawn, because they need the fonts of the machine."""
    text = _text(data)
    command = [sys.executable, "-I", str(_PROGRAM), str(size)]
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"an SVG drawing that takes more than {_SECONDS} seconds") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1] if done.returncode > 0 and lines else "it takes too much memory or time"
        raise ValueError(f"an SVG drawing that resvg cannot draw: {why[:200]}")
    return done.stdout


def drawing_size(data: bytes) -> tuple[int, int]:
    """(width, height) as the drawing says; (1, 1) if it does not."""
    root = _ROOT.search(_text(data).encode())
    tag = root[0] if root else b""
    width, height = (re.search(_LENGTH % name, tag) for name in (b"width", b"height"))
    box = _BOX.search(tag)
    numbers = re.findall(rb"[\d.]+", box[1]) if box else []
    if width and height:
        sides = [width[1], height[1]]
    else:
        sides = numbers[2:4] if len(numbers) == 4 else [b"1", b"1"]
    try:
        return max(round(float(sides[0])), 1), max(round(float(sides[1])), 1)
    except ValueError:
        return 1, 1


def _text(data: bytes) -> str:
    """The drawing's text. Raises ValueError if it is too long."""
    if data.startswith(b"\x1f\x8b"):
        data = _inflated(data, MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ValueError(f"an SVG drawing of more than {MAX_TEXT:,} bytes")
    declared = _DECLARED.match(data.lstrip())
    try:
        return data.decode(declared[1].decode() if declared else "utf-8-sig")
    except (LookupError, UnicodeDecodeError):
        return data.decode("latin-1")


def _inflated(data: bytes, most: int) -> bytes:
    """The first `most` bytes of what is compressed; fewer if it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data, most)
    except zlib.error:
        return b""

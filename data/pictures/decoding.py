"""Picture files → square pixels. The bytes of a file are not trusted."""

import io
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageFile, UnidentifiedImageError

from data.pictures.colours import to_srgb
from data.pictures.squares import Fit, to_square
from data.pictures.vector import drawing_size, drawn, is_drawing

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_BYTES = 64 << 20
MAX_PIXELS = 1 << 26  # 8,192 × 8,192
MAX_JPEG_PIXELS = (
    1 << 28
)  # telephones take 200 million; a JPEG is decoded at a fraction of its size
MAX_MEMORY = 512 << 20  # bytes that all pictures that are being decoded may take together
_BYTES_PER_PIXEL = {"PNG": 5, "GIF": 6, "BMP": 5, "PPM": 5, "TIFF": 9, "JPEG2000": 17}
_OTHER_BYTES = 10  # for WebP, AVIF and HEIC, whose decoders hold additional planes
_PROGRESSIVE_BYTES = 6  # a progressive JPEG's coefficients, kept for every pixel of the file
_STRIP = 1 << 22  # pixels that are composed at a time
_ROTATED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Sizes are checked here, against a lower bound than Pillow's. Pillow's would also warn on the
# terminal.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata; a picture that cannot be used is counted and named instead.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadablePictureError(ValueError):
    """A picture that cannot be used; the message says why."""


class _Memory:
    """Limits the memory of pictures that are decoded at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """A context that waits until `size` bytes are free. A single picture never waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= MAX_MEMORY)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


_MEMORY = _Memory()


def read_picture(
    data: bytes,
    image_size: int,
    fit: Fit = "crop",
    background: str = "white",
    keep_truncated: bool = False,
) -> UInt8[np.ndarray, "y x 3"]:
    """The first frame as an upright square in sRGB; transparent parts show the background. `fit`
    says how it becomes a square (data/pictures/squares.py).

    Raises:
        UnreadablePictureError: the picture is damaged, too large, or of a format that is not in
            FORMATS.
    """
    if not data:
        raise UnreadablePictureError("an empty file")
    if len(data) > MAX_BYTES:
        raise UnreadablePictureError(f"{len(data):,} bytes are more than {MAX_BYTES:,}")
    try:
        if is_drawing(data):
            data = drawn(data, 2 * image_size)
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            progressive = bool(picture.info.get("progressive"))
            kept = picture.width * picture.height * _PROGRESSIVE_BYTES if progressive else 0
            _check_pixels(picture)
            # A large JPEG is decoded at a fraction of its size, which is many times faster.
            size = picture.size
            picture.draft("RGB", (2 * image_size, 2 * image_size))
            _check_memory(picture, size, kept)
            with _MEMORY.hold(_memory(picture) + kept):
                _load(picture, keep_truncated)
                small = _reduced(picture, image_size, background)
                orientation = picture.getexif().get(0x0112)
        upright = small.transpose(_ROTATED[orientation]) if orientation in _ROTATED else small
        return np.asarray(to_square(upright, image_size, fit, background))
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:  # its message names a buffer, not the file
        raise UnreadablePictureError(_unknown(data)) from None
    except Exception as error:  # decoders fed with damaged bytes raise nearly anything
        raise UnreadablePictureError(f"damaged: {error}") from None


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) of a readable picture, upright."""
    if is_drawing(data):
        return drawing_size(data)
    with Image.open(io.BytesIO(data), formats=_formats()) as picture:
        width, height = picture.size
        is_turned = picture.getexif().get(0x0112) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The readable formats. HEIC, an iPhone's format, needs pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _unknown(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC, for which `pip install pillow-heif` is needed"
    text = data[:256].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, no picture"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, not the picture; run `git lfs pull`"
    return "not a JPEG, PNG, WebP or another format that is read" + _kind_of_file(data)


def _kind_of_file(data: bytes) -> str:
    """The kind of a file that is not a picture, in parentheses; empty if it is unknown."""
    if data.lstrip().startswith((b"data:image/", b"iVBORw0KGgo", b"/9j/", b"UklGR", b"R0lGOD")):
        return " (a picture as base64 text; write its bytes)"
    for start, name in _UNREAD:
        if data.startswith(start):
            return f" ({name}; save it as PNG or JPEG)"
    return "" if re.search(rb"[^\s\x20-\x7e]", data[:256]) else " (a text)"


_UNREAD = (
    (b"8BPS", "Photoshop's PSD"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\x01\0", "an icon"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"gimp xcf", "GIMP's XCF"),
    (b"II*\0", "a camera's raw picture or an unusual TIFF"),
    (b"MM\0*", "a camera's raw picture or an unusual TIFF"),
)
"""First bytes of formats that are not read."""


def _check_pixels(picture: Image.Image) -> None:
    width, height = picture.size
    most = MAX_JPEG_PIXELS if picture.format in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > most:
        raise UnreadablePictureError(f"{width} × {height} pixels are more than {most:,}")


def _check_memory(picture: Image.Image, size: tuple[int, int], kept: int = 0) -> None:
    if (need := _memory(picture) + kept) > MAX_MEMORY:
        raise UnreadablePictureError(
            f"{size[0]} × {size[1]} pixels of {picture.format} take {need >> 20:,} MB to decode, "
            f"more than {MAX_MEMORY >> 20:,}"
        )


def _memory(picture: Image.Image) -> int:
    each = (
        4 if picture.format == "JPEG" else _BYTES_PER_PIXEL.get(str(picture.format), _OTHER_BYTES)
    )
    return picture.width * picture.height * each


def _load(picture: Image.Image, keep_truncated: bool) -> None:
    if keep_truncated and picture.format == "JPEG" and isinstance(picture, ImageFile.ImageFile):
        with _TRUNCATED:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                picture.load()
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
    else:
        picture.load()
    if (picture.width * picture.height) > MAX_PIXELS:  # a frame may be larger than the file says
        _check_pixels(picture)
        _check_memory(picture, picture.size)


_TRUNCATED = threading.Lock()


def _reduced(picture: Image.Image, image_size: int, background: str) -> Image.Image:
    """The whole picture in RGB, several times as large as needed. It is reduced strip by strip, so
    that a large picture has no further copies in memory."""
    factor = max(min(picture.size) // (4 * image_size), 1)
    rows = max(_STRIP // picture.width // factor, 1) * factor
    if picture.height <= rows:
        return _on_background(picture, picture, factor, background)
    strips = [
        _on_background(
            picture.crop((0, top, picture.width, min(top + rows, picture.height))),
            picture,
            factor,
            background,
        )
        for top in range(0, picture.height, rows)
    ]
    whole = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def _on_background(
    part: Image.Image, picture: Image.Image, factor: int, background: str
) -> Image.Image:
    """One strip of a picture in sRGB, reduced; transparent parts show the background."""
    profile = picture.info.get("icc_profile")
    if part.mode.startswith("I") or part.mode == "F" or _is_signed(picture):
        part = _eight_bits(part, picture)
    if not picture.has_transparency_data:
        if part.mode not in ("RGB", "L", "CMYK"):
            part = part.convert("RGB")
        return to_srgb(part.reduce(factor) if factor > 1 else part, profile)
    layer = part.convert("RGBA")
    layer = layer.reduce(factor) if factor > 1 else layer
    if profile:
        alpha, layer = layer.getchannel("A"), to_srgb(layer.convert("RGB"), profile)
        layer.putalpha(alpha)
    below = Image.new("RGBA", layer.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(below, layer).convert("RGB")


def _eight_bits(part: Image.Image, picture: Image.Image) -> Image.Image:
    """A strip of 16-bit, 32-bit or float grey, scaled to 8 bits by the range of the whole picture;
    Pillow would clip it."""
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    values = _numbers(part, tags)
    if part.mode.startswith("I;16"):
        values = values >> 8
    else:
        whole = _numbers(picture, tags)
        most = whole.max(initial=0, where=np.isfinite(whole)).item()
        if values.dtype.kind == "f":
            values = np.nan_to_num(values, posinf=most, neginf=0)
            values = values * (255 / next((top for top in (1, 255, 65535) if most <= top), most))
        else:
            values = (
                np.maximum(values, 0).astype(np.int64) << 8 >> _bits_in_use(most, picture, tags)
            )
    grey = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)


_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF: bits of a number; 0 = white is zero, which Pillow turns round only in 8 bits;
1 = unsigned, 2 = signed."""


def _bits_in_use(most: int, picture: Image.Image, tags: Mapping[int, Any]) -> int:
    """Bits of the brightest number that the format means: 9 to 16 bits are read as 16, and a
    signed number has one less."""
    bits = tags.get(_BITS, (0,))[0] if _is_signed(picture) else 0
    if bits == 8:
        return 7
    return 8 if most < 256 else max(most.bit_length(), 15 if bits == 16 else 16)


def _is_signed(picture: Image.Image) -> bool:
    return getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT) == (2,)


def _numbers(picture: Image.Image, tags: Mapping[int, object]) -> np.ndarray:
    """The values; Pillow reads unsigned numbers of 32 bits as signed ones, and signed ones of 8 as
    unsigned ones."""
    values = np.asarray(picture)
    if picture.mode == "L" and tags.get(_SAMPLE_FORMAT) == (2,):
        return values.view(np.int8)
    is_unsigned = picture.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,)) == (1,) and bool(tags)
    return values.view(np.uint32) if is_unsigned else values

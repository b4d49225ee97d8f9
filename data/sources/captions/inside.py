"""Captions that programs wrote into the picture files: XMP, IPTC, EXIF, and texts of a PNG."""

import html
import io
import re
from collections.abc import Iterator, Mapping

from PIL import Image, IptcImagePlugin

from data.pictures.decoding import FORMATS
from data.sources.base import Captions
from data.sources.captions import texts

_IN_XMP = (
    re.compile(r"<dc:description\b[^>]*>.*?<rdf:li\b[^>]*>(.*?)</rdf:li>", re.DOTALL),
    re.compile(r"<dc:title\b[^>]*>.*?<rdf:li\b[^>]*>(.*?)</rdf:li>", re.DOTALL),
)
_IPTC_CAPTION = (2, 120)
_DESCRIPTION, _TITLE, _COMMENT = 0x010E, 0x9C9B, 0x9C9C
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_KEYS = ("Description", "Comment", "Title", "parameters", "comment")
"""Texts of a PNG, a WebP or a GIF; `parameters` is a prompt and its settings."""
_SETTINGS = re.compile(r"\n(?:Negative prompt|Steps): ")
_OF_A_PROGRAM = re.compile(
    r"(?:olympus digital camera|sony dsc|dcim\b.*|screen ?shot.*|default|hdr\w*|charset=\w+|"
    r"created (?:with|by|using) .*|(?:processed|edited|file written) (?:with|by) .*|"
    r"samsung.*|kodak.*|minolta digital camera|exif_jpeg.*|lead technologies.*|optimized by.*)",
    re.IGNORECASE | re.DOTALL,
)
"""What cameras and programs write into each picture."""


def caption_inside(data: bytes, sidecar: bytes = b"") -> Captions:
    """The caption in a picture file, or in the XMP file beside it. Empty without one, or if a
    camera or program wrote it. The picture is not decoded."""
    for text in _every(data, sidecar):
        caption = _SETTINGS.split(text)[0].strip("\0 \t\r\n")
        found = texts.weighed([caption]).captions
        if found and not _OF_A_PROGRAM.fullmatch(caption):
            return found
    return ()


def _every(data: bytes, sidecar: bytes) -> Iterator[str]:
    """Yield the texts that may be the caption, the best first."""
    yield from _in_xmp(sidecar)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            about = picture.info
            xmp = about.get("xmp") or about.get("XML:com.adobe.xmp") or b""
            yield from _in_xmp(xmp.encode() if isinstance(xmp, str) else xmp)
            yield from _in_iptc(IptcImagePlugin.getiptcinfo(picture) or {})
            yield from _in_exif(picture.getexif())
            yield from (str(about[key]) for key in _KEYS if isinstance(about.get(key), str))
            if isinstance(comment := about.get("comment"), bytes):
                yield _decoded(comment)
    except Exception:  # damaged metadata raise nearly anything; data/pictures/ names the damage
        return


def _in_xmp(data: bytes) -> Iterator[str]:
    text = _decoded(data) if data else ""
    for pattern in _IN_XMP:
        if found := pattern.search(text):
            yield html.unescape(found[1])


def _in_iptc(about: Mapping[tuple[int, int], bytes | list[bytes]]) -> Iterator[str]:
    caption = about.get(_IPTC_CAPTION)
    if isinstance(caption, list):
        caption = caption[0] if caption else b""
    if caption:
        yield _decoded(caption)


def _in_exif(exif: Image.Exif) -> Iterator[str]:
    if isinstance(description := exif.get(_DESCRIPTION), str):
        yield _mended(description)
    for tag in (_TITLE, _COMMENT):  # Windows
        if isinstance(value := exif.get(tag), bytes):
            yield value.decode("utf-16-le", "replace")
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, bytes) and len(comment) > 8:
        code, text = comment[:8], comment[8:]
        endian = "utf-16-be" if text[:1] == b"\0" else "utf-16-le"
        yield text.decode(endian, "replace") if code.startswith(b"UNICODE") else _decoded(text)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _mended(text: str) -> str:
    """UTF-8 that was read as Latin-1, as Pillow reads EXIF."""
    try:
        return text.encode("latin-1").decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text

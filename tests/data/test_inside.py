"""Captions inside picture files, as Lightroom, digiKam, Windows and image generators write them."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from data.sources.captions.inside import caption_inside
from tests.data.layouts import put
from tests.data.test_own_pictures import captions, opened

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">a b&#252;s &amp; bird</rdf:li></rdf:Alt></dc:description>'
    "<dc:subject><rdf:Bag><rdf:li>zoo</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF>"
    "</x:xmpmeta>"
)
CAPTION = "a büs & bird"


def saved(kind: str = "JPEG", **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind, **more)
    return file.getvalue()


def exif(tag: int, value: str | bytes, inner: int = 0) -> bytes:
    made = Image.Exif()
    if inner:
        made.get_ifd(tag)[inner] = value
    else:
        made[tag] = value
    return saved(exif=made)


def iptc(caption: bytes) -> bytes:
    record = b"\x1c\x02\x78" + struct.pack(">H", len(caption)) + caption
    record += b"\0" * (len(record) % 2)
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    jpeg = saved()
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    return saved("PNG", pnginfo=info)


INSIDE = {
    "XMP of a JPEG": saved(xmp=XMP.encode()),
    "XMP of a WebP": saved("WEBP", xmp=XMP.encode()),
    "XMP of a PNG": png(**{"XML:com.adobe.xmp": XMP}),
    "IPTC": iptc(CAPTION.encode()),
    "IPTC of an old program": iptc(CAPTION.encode("cp1252")),
    "EXIF's description": exif(0x010E, CAPTION.encode()),
    "Windows' title": exif(0x9C9B, CAPTION.encode("utf-16-le") + b"\0\0"),
    "EXIF's comment": exif(0x8769, b"UNICODE\0" + CAPTION.encode("utf-16-be"), 0x9286),
    "a PNG's text": png(Description=CAPTION),
    "a prompt": png(parameters=f"{CAPTION}\nNegative prompt: blurry\nSteps: 20, Seed: 1"),
}


@pytest.mark.parametrize("what", INSIDE)
def test_a_caption_is_found_wherever_a_program_writes_it(what: str) -> None:
    assert caption_inside(INSIDE[what]) == ((CAPTION, 1.0),)


@pytest.mark.parametrize("text", ["OLYMPUS DIGITAL CAMERA", "Created with GIMP", "IMG_1.jpg", " "])
def test_what_a_camera_or_program_writes_is_no_caption(text: str) -> None:
    assert caption_inside(exif(0x010E, text)) == ()
    assert caption_inside(saved()[:300]) == ()


def test_a_folder_is_told_that_its_pictures_hold_captions(tmp_path: Path) -> None:
    names = [f"_MG_{i:04d}.jpg" for i in range(3)]
    for name in names:
        put(tmp_path / "inside" / name, INSIDE["IPTC"])
        put(tmp_path / "beside" / name, saved())
        put(tmp_path / "beside" / name.replace("jpg", "xmp"), XMP)
    for folder in (tmp_path / "inside", tmp_path / "beside"):
        with pytest.raises(ValueError, match=r"no captions in .*: say --captions=inside;"):
            opened(folder)
        source = opened(folder, flags=("--captions=inside",))
        assert captions(source) == [[CAPTION]] * 3
        assert "captions inside them" in source.about


def test_no_way_is_named_that_leads_to_no_captions(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "images" / f"{i}_small.jpg", saved())
    with pytest.raises(ValueError, match="no captions in") as caught:
        opened(tmp_path)
    assert "--captions=names" not in str(caught.value)  # each name says "small"
    assert "--kind=classes" not in str(caught.value).partition("if all show the same")[0]


def test_a_table_of_other_names_is_shown_beside_a_picture(tmp_path: Path) -> None:
    put(tmp_path / "images" / "1984.000_a.jpg", saved())
    put(tmp_path / "objects.csv", "Object;Title\n1984.000;a bird\n")
    message = r'its first row says "1984.000", "a bird", a picture is images/1984.000_a.jpg\)'
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)

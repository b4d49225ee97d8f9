"""Bytes of pictures to pixels."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from data import pictures
from data.pictures import UnreadablePictureError, read_picture


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_central_square_of_the_short_side_is_kept() -> None:
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    square = read_picture(saved(wide), 15)
    assert (square[:, 4:-4] == (0, 0, 255)).all()


def test_transparency_becomes_white() -> None:
    palette = Image.new("P", (8, 8), 0)
    for picture in (
        saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0))),
        saved(Image.new("LA", (8, 8), (0, 0))),
        saved(palette, transparency=0),
        saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "WEBP", lossless=True),
    ):
        assert (read_picture(picture, 8) == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert (read_picture(saved(grey), 8) == 0x80).all()


def test_the_camera_s_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    turned = read_picture(saved(image, "JPEG", exif=exif, quality=95), 16)
    assert turned[:, 10:].min() > 200
    assert turned[:, :6].max() < 50


def test_large_jpegs_keep_their_look_when_decoded_small() -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (1024, 1024, 3)).copy())
    expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    found = read_picture(saved(image, "JPEG", quality=95), 32).astype(int)
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("kind", ["ICO", "EPS", "PDF", "TGA"])
def test_formats_off_the_list_are_refused(kind: str) -> None:
    with pytest.raises(UnreadablePictureError, match="no JPEG, PNG or WebP"):
        read_picture(saved(Image.new("RGB", (16, 16)), kind), 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_are_refused_wherever_they_are_cut(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = saved(Image.fromarray(noise), kind)
    for length in (0, 1, 10, 40, len(whole) // 2, len(whole) - 30):
        with pytest.raises(UnreadablePictureError):
            read_picture(whole[:length], 8)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1 << 24))
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    start = time.perf_counter()
    with pytest.raises(UnreadablePictureError):
        read_picture(bomb, 64)
    assert time.perf_counter() - start < 0.5


def test_too_many_pixels_or_bytes_are_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("RGB", (50, 40)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1999)
    with pytest.raises(UnreadablePictureError, match=r"50 × 40 pixels are more than 1,999"):
        read_picture(data, 8)
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(UnreadablePictureError, match="bytes are more than 10"):
        read_picture(data, 8)

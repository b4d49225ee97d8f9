"""Decoding picture files to pixels."""

import io
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import decoding as pictures
from data.pictures.decoding import UnreadablePictureError, read_picture
from tests.data.samples import saved


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
    with pytest.raises(UnreadablePictureError, match="not a JPEG, PNG, WebP"):
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


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_other_formats_are_read_by_their_bytes(kind: str) -> None:
    red = read_picture(saved(Image.new("RGB", (16, 16), "red"), kind), 8)
    assert (np.abs(red.astype(int) - (255, 0, 0)) <= 6).all()


def test_the_first_frame_of_several_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        found = read_picture(saved(frames[0], kind, save_all=True, append_images=frames[1:]), 8)
        assert found[0, 0, 0] > 200, kind


def test_a_file_that_is_no_picture_is_called_by_its_kind() -> None:
    for data, why in (
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0", "pillow-heif|damaged"),
        (b"8BPS\0\1", r"not a JPEG, .* \(Photoshop's PSD; save it as PNG or JPEG\)"),
        (b'<?xml version="1.0"?>\n<svg width="9">', "an SVG drawing that resvg cannot draw: "),
        (b"<html><svg></svg></html>", "a web page"),
        (b'{"error": "AccessDenied"}', r"format that is read \(a text\)"),
        (b"\1\2\3\4", "format that is read$"),
    ):
        with pytest.raises(UnreadablePictureError, match=why):
            read_picture(data, 8)


def test_a_colour_profile_becomes_srgb() -> None:
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB", 5000)
    profile = ImageCms.ImageCmsProfile(lab).tobytes()
    grey = Image.new("RGB", (8, 8), (90, 120, 30))
    plain = read_picture(saved(grey), 8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read_picture(saved(grey, icc_profile=srgb), 8) == plain).all()
    # A profile for other channels than the picture's, and an invalid one, change nothing.
    for wrong in (profile, b"no profile" * 20):
        assert (read_picture(saved(grey, icc_profile=wrong), 8) == plain).all()
    swapped = swapped_profile(srgb)
    assert (
        read_picture(saved(Image.new("RGB", (8, 8), "red"), icc_profile=swapped), 8)[0, 0]
        == (
            0,
            255,
            0,
        )
    ).mean() >= 2 / 3


def swapped_profile(srgb: bytes) -> bytes:
    """An sRGB profile with red and green swapped."""
    data = bytearray(srgb)
    count = int.from_bytes(data[128:132], "big")
    places = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data.replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be")))


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """True if all pixels have the colour, up to the ringing of resampling beside an edge."""
    return bool((np.abs(pixels.astype(int) - colour) <= 20).all())


def test_pictures_fit_as_asked() -> None:
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (20, 0, 60, 40))
    data = saved(wide)
    assert near(read_picture(data, 8)[:, 2:-2], (0, 0, 255))
    padded = read_picture(data, 8, "pad", "#00ff00")
    assert near(padded[0], (0, 255, 0))
    assert near(padded[-1], (0, 255, 0))
    assert near(padded[4, 0], (255, 0, 0))
    stretched = read_picture(data, 8, "stretch")
    assert near(stretched[:, 0], (255, 0, 0))
    assert near(stretched[:, 4], (0, 0, 255))
    clear = saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    assert (read_picture(clear, 8, background="black") == 0).all()


def test_a_jpeg_that_was_cut_off_is_kept_when_asked() -> None:
    image = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    whole = saved(image, "JPEG", quality=95)
    cut = whole[: len(whole) - 20]
    with pytest.raises(UnreadablePictureError, match="truncated"):
        read_picture(cut, 8)
    assert abs(int(read_picture(cut, 8, keep_truncated=True)[0, 0, 0]) - 200) < 3
    with pytest.raises(UnreadablePictureError):
        read_picture(saved(image)[:-30], 8, keep_truncated=True)


def test_a_large_transparent_picture_is_not_held_in_many_copies() -> None:
    """Measures the peak memory of a process that reads 4,096² pixels of RGBA: 64 MB decoded."""
    code = (
        "import io, resource, sys; from PIL import Image\n"
        "from data.pictures.decoding import read_picture\n"
        "f = io.BytesIO(); Image.new('RGBA', (4096, 4096), (9, 9, 9, 99)).save(f, 'PNG')\n"
        "with open(sys.argv[1], 'wb') as file: file.write(f.getvalue())\n"
    )
    read = (
        "import resource, sys; from data.pictures.decoding import read_picture\n"
        "with open(sys.argv[1], 'rb') as file: data = file.read()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); read_picture(data, 64); print((peak() - before) >> 10)\n"
    )
    with tempfile.NamedTemporaryFile() as file:
        for program in (code, read):
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", program, file.name],
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[2],
                check=True,
            )
    assert int(done.stdout) < 160
    assert done.stderr == ""


def test_pictures_that_are_decoded_together_share_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(Image.new("RGB", (400, 400)))
    need = 400 * 400 * 5
    monkeypatch.setattr(pictures, "MAX_MEMORY", 2 * need)
    inside, most = [0], [0]
    lock = threading.Lock()
    load = pictures._load

    def slow(picture: Image.Image, keep_truncated: bool) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        load(picture, keep_truncated)
        with lock:
            inside[0] -= 1

    monkeypatch.setattr(pictures, "_load", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_picture(data, 8), range(16)))
    assert most[0] == 2
    monkeypatch.setattr(pictures, "MAX_MEMORY", need - 1)
    with pytest.raises(UnreadablePictureError, match=r"400 × 400 pixels of PNG take 0 MB"):
        read_picture(data, 8)


def test_a_telephones_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    data = io.BytesIO()
    Image.new("L", (9_000, 8_000), 100).save(data, "JPEG")
    tracemalloc.start()
    pixels = read_picture(data.getvalue(), 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (pixels == 100).all()
    assert peak < 32 << 20


def test_a_large_progressive_jpeg_is_refused_before_it_is_decoded() -> None:
    data = io.BytesIO()
    Image.new("L", (16, 16)).save(data, "JPEG", progressive=True)
    large = data.getvalue().replace(bytes((0, 16, 0, 16, 1)), b"\x23\x28\x2e\xe0\x01")
    with pytest.raises(UnreadablePictureError, match="12000 × 9000 pixels of JPEG take"):
        read_picture(large, 8)


def test_a_picture_of_fractions_is_scaled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.full((64, 16), 200, np.float32)
    values[:32] = 0.5  # the dark half is scaled like the rest
    data = io.BytesIO()
    Image.fromarray(values).save(data, "TIFF")
    monkeypatch.setattr(pictures, "_STRIP", 16 * 16)
    assert read_picture(data.getvalue(), 16, fit="stretch")[:6].max() <= 1


def tiff(values: np.ndarray, tag: int = 0, was: int = 0, now: int = 0) -> bytes:
    """A TIFF file of grey values, with another number in one of its tags."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    old, new = (struct.pack("<HHIHH", tag, 3, 1, number, 0) for number in (was, now))
    assert not tag or file.getvalue().count(old) == 1
    return file.getvalue().replace(old, new)


def signed_tiff(values: np.ndarray) -> bytes:
    """A TIFF file of signed grey values, which Pillow does not write in 8 and 16 bits."""
    height, width = values.shape
    bits, end = 8 * values.itemsize, 8 + values.nbytes
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, values.nbytes), (339, 2)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
    head = struct.pack("<2sHI", b"II", 42, end)
    return head + values.tobytes() + struct.pack("<H", len(tags)) + fields + bytes(4)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "data",
    [
        tiff((65535 - GREY.astype("<u2") * 257).astype("<u2"), 262, 1, 0),  # white is zero
        tiff((GREY.astype("<u4") * 0x1010101).view("<i4"), 339, 2, 1),  # unsigned
        signed_tiff(np.where(GREY == 7, -9, GREY.astype("<i2") * 128).astype("<i2")),
        tiff(GREY.astype(np.int32) * 257),
        tiff(GREY.astype(np.int32) * 512),
        tiff(GREY.astype(np.float32) * 257),
        tiff(GREY.astype(np.float32) * 1e6),
        tiff(np.where(GREY == 7, np.inf, GREY / np.float32(255)).astype(np.float32)),
    ],
    ids=["16 white is zero", "u32", "i16", "16 in 32", "17", "f 65535", "f large", "f inf"],
)
def test_grey_of_more_than_8_bits_is_scaled_to_8(data: bytes) -> None:
    found = read_picture(data, 16)
    others = GREY != 7
    np.testing.assert_array_equal(found[others], np.repeat(GREY[..., None], 3, 2)[others])


def test_signed_numbers_of_8_bits_have_7_for_grey() -> None:
    values = (GREY >> 1).astype(np.int8)
    values[0, 7] = -100  # black, not light grey
    found = read_picture(signed_tiff(values), 16)[..., 0]
    np.testing.assert_array_equal(found, np.maximum(values, 0).astype(np.uint8) << 1)

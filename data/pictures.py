"""Bytes of a picture file to a square of pixels, with nothing trusted about the bytes."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 64 << 20
MAX_PIXELS = 1 << 26  # 8,192 × 8,192: 200 MB once decoded


class UnreadablePictureError(ValueError):
    """A picture that cannot be used; the message says why."""


def read_picture(data: bytes, image_size: int) -> UInt8[np.ndarray, "y x 3"]:
    """Decode the first frame upright, on white where transparent, cropped to the central square.

    Raises:
        UnreadablePictureError: damaged, of another format than JPEG, PNG or WebP, or too large.
    """
    if len(data) > MAX_BYTES:
        raise UnreadablePictureError(f"{len(data):,} bytes are more than {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture)
            # A large JPEG is decoded at a fraction of its size, which is many times faster.
            picture.draft("RGB", (2 * image_size, 2 * image_size))
            upright = ImageOps.exif_transpose(picture)
            square = ImageOps.fit(
                _on_white(upright), (image_size, image_size), Image.Resampling.LANCZOS
            )
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:  # its message names a buffer, not the file
        raise UnreadablePictureError("no JPEG, PNG or WebP") from None
    except Exception as error:  # decoders fed with damaged bytes raise nearly anything
        raise UnreadablePictureError(f"damaged: {error}") from None
    return np.asarray(square)


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadablePictureError(f"{width} × {height} pixels are more than {MAX_PIXELS:,}")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits of grey instead of scaling them
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")

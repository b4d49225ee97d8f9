"""Converts pictures from any colour profile to sRGB."""

import io
from functools import lru_cache

from PIL import Image, ImageCms

_MAX_PROFILE = 4 << 20


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB picture in sRGB. A damaged profile, or one for another number of channels, is
    ignored."""
    if profile and len(profile) <= _MAX_PROFILE:
        transform = _transform(profile, picture.mode)
        if transform is not None:
            return ImageCms.applyTransform(picture, transform) or picture
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(read):
            return None
        return ImageCms.buildTransform(read, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

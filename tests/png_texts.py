"""Reads the texts that are stored in a PNG."""

from pathlib import Path

from PIL import Image


def read_png_about(path: Path) -> dict[str, str]:
    """The text fields of a PNG, by name."""
    with Image.open(path) as image:
        image.load()
        return {str(k): str(v) for k, v in getattr(image, "text", {}).items()}

"""Makes small pictures, and tars of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    """The file of a noise picture that depends on `number`."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a plain tar with these members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path

"""Fixtures: folders of pictures, and a fake VQGAN encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.encoding.tokenise import PictureEncoder
from tests.data.samples import picture


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of `count` captioned pictures, named like 003.png and 003.txt."""

    def make(count: int = 40, name: str = "pictures") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:03d}.png").write_bytes(picture(i))
            (folder / f"{i:03d}.txt").write_text(f"noise number {i}")
        return folder

    return make


@pytest.fixture
def encoder() -> PictureEncoder:
    """An encoder with four tokens per picture: the mean brightness of each quarter."""

    def encode(pixels: np.ndarray) -> np.ndarray:
        quarters = pixels.reshape(len(pixels), 2, 4, 2, 4, 3).mean(axis=(2, 4, 5))
        return ((quarters.reshape(-1, 4) + 1) * 31.5).astype(np.int32)

    return PictureEncoder(image_size=8, codebook_size=64, encode=encode, batch_size=16)

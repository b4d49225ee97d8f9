"""Compares the speed of data.encode, from a tar of JPEGs to tokens, with its VQGAN alone, from
pixels to tokens. Both in pictures per second."""

import io
import statistics
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.encoding.tokenise import PictureEncoder, PictureOptions, encode_span
from data.sources import PLAIN, open_source
from vqgan.encoder import open_encoder

ROUNDS = 3


@dataclass(frozen=True)
class Share:
    """Pictures per second, of the median round."""

    alone: float
    encode: float

    @property
    def share(self) -> float:
        """The speed of data.encode divided by the VQGAN's."""
        return self.encode / self.alone


def write_photographs(path: Path, count: int, side: int) -> None:
    """Write a tar of captioned JPEGs of side × side pixels, as smooth as photographs."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            small = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
            file = io.BytesIO()
            small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
            for ending, data in (("jpg", file.getvalue()), ("txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def measure_encoding(folder: Path, vqgan: Path, count: int) -> dict[int, Share]:
    """The speeds by the side of the pictures: the VQGAN's own size, and four times that. The
    nearest codes are taken, so that the reading shows."""
    encoder = open_encoder(vqgan, tried_codes=1)
    sides = (encoder.image_size, 4 * encoder.image_size)
    return {side: _measure(folder / f"{side}.tar", encoder, count, side) for side in sides}


def _measure(tar: Path, encoder: PictureEncoder, count: int, side: int) -> Share:
    """Encode `count` pictures in both ways, in turns, so that other work slows both alike."""
    write_photographs(tar, count, side)
    source = open_source(tar)
    shape = (encoder.batch_size, encoder.image_size, encoder.image_size, 3)
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    np.asarray(encoder.encode(pixels))  # compiles
    alone, encode = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        _encode_alone(encoder, pixels, count)
        alone.append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        shard = encode_span(source, encoder, PictureOptions(0.0, PLAIN), range(count))
        encode.append(count / (time.perf_counter() - start))
        assert len(shard.image_tokens) == count
    return Share(statistics.median(alone), statistics.median(encode))


def _encode_alone(encoder: PictureEncoder, pixels: np.ndarray, count: int) -> None:
    """Encode as many whole batches as `count` pictures need. The next batch is dispatched while one
    is computed."""
    before = None
    for _ in range(-(-count // encoder.batch_size)):
        begun = encoder.encode(pixels)
        if before is not None:
            np.asarray(before)
        before = begun
    np.asarray(before)

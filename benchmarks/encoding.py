"""The speed of data.encode beside that of its VQGAN alone: pictures a second from a tar of JPEGs to
tokens, and from pixels that are ready."""

import io
import statistics
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.encode import open_encoder
from data.sources import PLAIN, open_source
from data.tokenise import PictureEncoder, PictureOptions, encode_span

SIDE = 256
ROUNDS = 3


@dataclass(frozen=True)
class Share:
    """Pictures a second, of the middle round."""

    alone: float
    encode: float

    @property
    def share(self) -> float:
        """The speed of data.encode as a share of the VQGAN's own."""
        return self.encode / self.alone


def write_photographs(path: Path, count: int) -> None:
    """A tar of captioned JPEGs of 256 × 256 pixels, as smooth as photographs."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            small = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
            file = io.BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
            for ending, data in (("jpg", file.getvalue()), ("txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def measure_encoding(folder: Path, vqgan: Path, count: int) -> Share:
    """Encode `count` pictures in both ways, in turn, so that other work slows both."""
    write_photographs(folder / "photographs.tar", count)
    source, encoder = open_source(folder / "photographs.tar"), open_encoder(vqgan)
    shape = (encoder.batch_size, encoder.image_size, encoder.image_size, 3)
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    np.asarray(encoder.encode(pixels))  # compiles
    alone, encode = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        _encode_alone(encoder, pixels, count)
        alone.append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        found = encode_span(source, encoder, PictureOptions(0.0, PLAIN), range(count))
        encode.append(count / (time.perf_counter() - start))
        assert len(found.image_tokens) == count
    return Share(statistics.median(alone), statistics.median(encode))


def _encode_alone(encoder: PictureEncoder, pixels: np.ndarray, count: int) -> None:
    """As many whole batches as the pictures need, the next one begun while one is computed."""
    before = None
    for _ in range(-(-count // encoder.batch_size)):
        begun = encoder.encode(pixels)
        if before is not None:
            np.asarray(before)
        before = begun
    np.asarray(before)

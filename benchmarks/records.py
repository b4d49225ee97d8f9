"""Writes token records of random captions and pictures, and measures how fast batches are read."""

import time
from pathlib import Path

import numpy as np

from common.split_names import TRAIN
from data.batches import Batches, open_batches
from data.encoding.writing import Part, write_records
from data.records import Records, open_records
from model.config import ModelConfig

CAPTIONS = 2
"""Captions per picture."""


def make_records(folder: Path, sizes: ModelConfig, count: int) -> Records:
    """Write and open records of `count` pictures that fit the model."""
    random = np.random.default_rng(0)

    def draw(least: int, end: int, *shape: int) -> np.ndarray:
        return random.integers(least, end, shape, np.int32)

    captions, length = CAPTIONS * count, sizes.text_length
    lengths = draw(min(8, length), length + 1, captions)
    text = draw(0, sizes.text_vocab_size, captions, length)
    part = Part(
        image_tokens=draw(0, sizes.image_vocab_size, count, sizes.image_length),
        text_tokens=np.where(np.arange(length) < lengths[:, None], text, 0),
        text_lengths=lengths,
        caption_offsets=CAPTIONS * np.arange(count + 1),
        caption_weights=np.ones(captions, np.float32),
        splits=[TRAIN] * count,
        examples=[],
    )
    write_records(
        folder,
        part,
        source=".",
        codebook_size=sizes.image_vocab_size,
        text_vocab_size=sizes.text_vocab_size,
    )
    return open_records(folder)


def open_training(records: Records, batch_size: int) -> Batches:
    """The records' batches, in training's order."""
    return open_batches(records, TRAIN, batch_size, seed=0)


def measure_reading(batches: Batches, batch_size: int, seconds: float) -> float:
    """Samples read per second on one core, measured for `seconds`."""
    batches.at(0)
    start, step = time.process_time(), 0
    while time.process_time() - start < seconds:
        step += 1
        batches.at(step)
    return step * batch_size / (time.process_time() - start)

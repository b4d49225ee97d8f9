"""Settings and results of runs of `python -m vqgan.train` that last a second."""

import json

import jax
import numpy as np

from tests.tiny import TINY_VQGAN
from training.config import CheckpointConfig, GridsConfig, ParallelConfig
from vqgan.config import QuantizerConfig
from vqgan.run_config import PictureTraining, VQGANRunConfig
from vqgan.sets import PicturesConfig


def config_of(source, folder, model=TINY_VQGAN):
    return VQGANRunConfig(
        output_dir=str(folder),
        model=model,
        data=PicturesConfig(source=(str(source),)),
        quantizer=QuantizerConfig(warmup_steps=2, refresh_every=2, refresh_pictures=32),
        training=PictureTraining(steps=6, batch_size=4, eval_every=0),
        grids=GridsConfig(every=-1),
        checkpoint=CheckpointConfig(every=3),
        parallel=ParallelConfig(devices=1),
    )


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = ("hours", "time/", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

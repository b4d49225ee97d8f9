"""A VQGAN's encoder as one compiled program, for data.encode and for training on fixed tokens."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from data.encoding.tokenise import PictureEncoder
from training.config import ParallelConfig
from training.devices import over_rows, placing
from training.devices.devices import arrange
from vqgan import autoencoder, pretrained
from vqgan.config import VQGANConfig
from vqgan.layers import Params

PER_DEVICE = 64
"""Pictures per device and call."""


def open_encoder(
    folder: Path, most_devices: int | None = None, tried_codes: int | None = None
) -> PictureEncoder:
    """The encoder, on at most `most_devices` devices of this process (None = all), with the tried
    codes of the folder's config or others. Raises ValueError for more than there are codes."""
    config, params = pretrained.load(folder)
    if tried_codes is not None:
        config = dataclasses.replace(config, tried_codes=tried_codes)
    return make_encoder(config, params, most_devices)


def make_encoder(
    config: VQGANConfig,
    params: Params,
    most_devices: int | None = None,
    per_device: int = PER_DEVICE,
) -> PictureEncoder:
    """The encoder of a configuration, on at most `most_devices` devices of this process (None =
    all), for `per_device` pictures on each at a time."""
    devices = arrange(jax.local_devices()[:most_devices], ParallelConfig())
    compiled = jax.jit(over_rows.split_over_devices(autoencoder.build(config).encode, devices))
    params = placing.place(params, devices)

    def encode(pixels: Float32[np.ndarray, "b y x 3"]) -> jax.Array:
        return compiled(params, pixels)

    size = per_device * len(devices)
    return PictureEncoder(config.image_size, config.codebook_size, encode, size)

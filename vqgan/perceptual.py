"""LPIPS, the perceptual distance of two pictures by features of VGG-16.

Zhang et al. 2018, arXiv:1801.03924; VGG-16: Simonyan & Zisserman 2014, arXiv:1409.1556. The user
provides the weights: VGG-16 alone, or with LPIPS's channel weights, as in the package lpips or in a
checkpoint of taming-transformers.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from model.layers import along_last
from weights.arrays import check_numbers, read_arrays

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""torchvision's numbers of the convolutions of each stage. A stage begins by halving its input, and
its last features are compared."""
SHIFT = np.array([[[[-0.030, -0.088, -0.188]]]], np.float32)
SCALE = np.array([[[[0.458, 0.448, 0.450]]]], np.float32)
"""Mean and standard deviation of photographs' colours in −1..1."""
_CONVOLUTION = re.compile(r"(?:^|\.)(?:features|slice[1-5])\.(\d+)\.(weight|bias)$")
_CHANNELS = re.compile(r"(?:^|\.)lin(?:s\.)?([0-4])\.model\.\d+\.weight$")

Picture = Float[Array, "b y x 3"]
Kernel = Float[np.ndarray, "3 3 i o"]
Channels = Float[np.ndarray, " o"]


class Vgg(NamedTuple):
    """Five stages of 3 × 3 convolutions, and the weight of each channel after a stage."""

    stages: Sequence[Sequence[tuple[Kernel, Channels]]]
    channels: Sequence[Channels]


@cache
def open_vgg(path: str) -> Vgg:
    """The network in a safetensors file. Without LPIPS's weights, all channels have weight 1.

    Raises:
        ValueError: the file is missing or damaged, or holds another network.
    """
    file, arrays = read_arrays(Path(path).parent, Path(path).name)
    convolutions = {(int(m[1]), m[2]): k for k in arrays if (m := _CONVOLUTION.search(k))}
    lines = {int(m[1]): k for k in arrays if (m := _CHANNELS.search(k))}
    wanted = {(n, leaf) for stage in STAGES for n in stage for leaf in ("weight", "bias")}
    if missing := wanted - set(convolutions):
        number, leaf = min(missing)
        raise ValueError(
            f"{file} is not a VGG-16: {len(missing)} of its {len(wanted)} arrays are missing, such "
            f"as features.{number}.{leaf}"
        )
    if lines and len(lines) < len(STAGES):
        raise ValueError(f"{file} has LPIPS's weights of {len(lines)} stages of {len(STAGES)}")
    check_numbers(file, {k: arrays[k] for k in (*convolutions.values(), *lines.values())})
    stages, width = [], 3
    for numbers in STAGES:
        stage = []
        for number in numbers:
            key = convolutions[number, "weight"]
            kernel, bias = arrays[key], arrays[convolutions[number, "bias"]].reshape(-1)
            _check(file, key, kernel, (len(bias), width, 3, 3))
            width = len(bias)
            stage.append((_as_float(kernel).transpose(2, 3, 1, 0), _as_float(bias)))
        stages.append(stage)
    channels = []
    for number, stage in enumerate(stages):
        size = len(stage[-1][1])
        weight = np.full(size, 1 / size, np.float32)
        if lines:
            _check(file, lines[number], arrays[lines[number]], (1, size, 1, 1))
            weight = _as_float(arrays[lines[number]]).reshape(-1)
        channels.append(weight)
    return Vgg(stages, channels)


def _as_float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _check(file: Path, key: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{file}: {key} has shape {array.shape}, VGG-16 needs {shape}")


def distance(vgg: Vgg, a: Picture, b: Picture) -> Float[Array, " b"]:
    """LPIPS of each pair of pictures in −1..1: squared differences of unit-length features,
    weighted by channel, averaged over positions, summed over stages.

    Raises:
        ValueError: the pictures are too small to be halved four times.
    """
    if min(a.shape[1:3]) < 2 ** (len(STAGES) - 1):
        raise ValueError(
            f"pictures of {a.shape[1]} × {a.shape[2]} pixels are too small for loss.perceptual, "
            f"which needs {2 ** (len(STAGES) - 1)} at least"
        )
    both = (jnp.concatenate([a, b]) - SHIFT) / SCALE
    total = jnp.zeros(len(a))
    for number, (stage, weight) in enumerate(zip(vgg.stages, vgg.channels, strict=True)):
        if number:
            both = _halve(both)
        for kernel, bias in stage:
            moved = _convolve(both, kernel)
            both = jax.nn.relu(moved + along_last(jnp.asarray(bias), moved))
        first, second = jnp.split(_unit_length(both), 2)
        total += (jnp.square(first - second) @ weight).mean((1, 2))
    return total


def _convolve(x: Float[Array, "b y x i"], kernel: Kernel) -> Float[Array, "b y x o"]:
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _halve(x: Float[Array, "b y x c"]) -> Float[Array, "b _ _ c"]:
    """The maximum of each 2 × 2; an odd last row or column is dropped, as torch does."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _unit_length(x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
    """Features scaled to unit length; 0 stays 0, with a gradient of 0."""
    length = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-20)
    return x / (length + 1e-10)

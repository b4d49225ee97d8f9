"""Positions of tokens: sinusoidal tables, rotary angles, and indices of relative biases.

Text is a grid of one row, so one function serves text and pictures.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def sinusoidal(length: int, dim: int, base: float) -> Float[np.ndarray, "n d"]:
    """Sines, then cosines, of wavelengths 2π … 2π base. Vaswani et al. 2017, arXiv:1706.03762."""
    angles = np.arange(length)[:, None] * _frequencies(dim // 2, base)[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def rotary_angles(
    rows: int, columns: int, head_dim: int, base: float
) -> Float[np.ndarray, "n half"]:
    """The rotation angle of each pair of channels at each position (Su et al. 2021,
    arXiv:2104.09864). In a picture, half of the pairs rotate by row, the others by column."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    if rows == 1:
        return (x[:, None] * _frequencies(head_dim // 2, base)[None]).astype(np.float32)
    frequencies = _frequencies(head_dim // 4, base)[None]
    return np.concatenate([y[:, None] * frequencies, x[:, None] * frequencies], axis=1).astype(
        np.float32
    )


def rotate(x: Float[Array, "b h q e"], angles: Float[Array, "q half"]) -> Float[Array, "b h q e"]:
    """x with channels i and i + e/2 rotated, in float32."""
    cos, sin = jnp.cos(angles)[None, None], jnp.sin(angles)[None, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def num_offsets(rows: int, columns: int) -> int:
    """The number of different offsets between two positions of a grid."""
    return (2 * rows - 1) * (2 * columns - 1)


def offset_index(rows: int, columns: int) -> Int[np.ndarray, "q k"]:
    """The index of the offset between each query and each key. Liu et al. 2021, arXiv:2103.14030,
    eq. 4."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    dy = y[:, None] - y[None] + rows - 1
    dx = x[:, None] - x[None] + columns - 1
    return (dy * (2 * columns - 1) + dx).astype(np.int32)


def distance_buckets(length: int, buckets: int, distance: int) -> Int[np.ndarray, "q k"]:
    """The bucket of the distance between each query and each key. Raffel et al. 2020,
    arXiv:1910.10683, section 2.1.

    Keys before the query have the first half of the buckets, keys after it the second. In each
    half, half of the buckets hold one distance each. The others grow in logarithmic steps up to
    `distance`; larger distances share the last bucket.
    """
    half = buckets // 2
    exact = half // 2
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    far = np.abs(offset)
    # In float32, as T5 was trained: at powers of two the rounding decides the bucket.
    steps = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    steps = steps / np.float32(np.log(distance / exact)) * np.float32(half - exact)
    wide = np.minimum(exact + steps.astype(np.int32), half - 1)
    return (np.where(offset > 0, half, 0) + np.where(far < exact, far, wide)).astype(np.int32)


def _frequencies(count: int, base: float) -> Float[np.ndarray, " count"]:
    return base ** (-np.arange(count) / count)

"""Momentum stored as 8-bit integers, in a quarter of float32's memory."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LARGEST = 127.0


class Quantized(NamedTuple):
    """An array as values · scale. A column is the entries that differ only in their row index; each
    column has one scale."""

    values: Int8[Array, "layers rows *columns"]
    scale: Float[Array, "layers 1 *columns"]


def quantize(x: Float[Array, "layers rows *columns"]) -> Quantized:
    """x in 8 bits: each column's largest entry becomes ±127; the others are rounded to the nearest
    step."""
    scale = jnp.abs(x).max(1, keepdims=True) / LARGEST
    steps = x / jnp.where(scale > 0, scale, 1.0)
    return Quantized(jnp.round(steps).astype(jnp.int8), scale)


def dequantize(packed: Quantized | Array) -> Array:
    """The array before `quantize`, up to rounding. An array that is not quantized is returned
    unchanged."""
    if not isinstance(packed, Quantized):
        return packed
    return packed.values.astype(packed.scale.dtype) * packed.scale

"""Momentum kept as 8-bit integers: a quarter of the memory."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LARGEST = 127.0


class Quantized(NamedTuple):
    """values · scale, with one scale per column: entries that share all indices but the first."""

    values: Int8[Array, "layers rows *columns"]
    scale: Float[Array, "layers 1 *columns"]


def quantize(x: Float[Array, "layers rows *columns"]) -> Quantized:
    """Each column's largest entry becomes 127 or −127, the others round to the nearest step."""
    scale = jnp.abs(x).max(1, keepdims=True) / LARGEST
    steps = x / jnp.where(scale > 0, scale, 1.0)
    return Quantized(jnp.round(steps).astype(jnp.int8), scale)


def restore(packed: Quantized | Array) -> Array:
    """The array before quantisation, up to rounding; an array is returned as it is."""
    if not isinstance(packed, Quantized):
        return packed
    return packed.values.astype(packed.scale.dtype) * packed.scale

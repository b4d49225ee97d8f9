"""Unsigned 64-bit integers for compiled programs, as pairs of 32-bit ones.

A run may see more than 2³¹ examples. jax has 64-bit integers only with x64, which would change
every other dtype, and float32 is exact only up to 2²⁴.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

HALF, WORD = 2**16, 2**32


class Wide(NamedTuple):
    """high · 2³² + low."""

    high: UInt32[Array, "*b"]
    low: UInt32[Array, "*b"]


def wide(number: int) -> Wide:
    """The constant as a Wide. Raises ValueError unless 0 ≤ number < 2⁶⁴."""
    if not 0 <= number < WORD**2:
        raise ValueError(f"{number} is not within 0..2^64")
    return Wide(jnp.uint32(number // WORD), jnp.uint32(number % WORD))


def times(count: Int[Array, "*b"], factor: int) -> Wide:
    """count × factor, exactly, for count ≥ 0 and factor < 2³²."""
    number = jnp.asarray(count).astype(jnp.uint32)
    a_high, a_low = number // HALF, number % HALF
    b_high, b_low = jnp.uint32(factor // HALF), jnp.uint32(factor % HALF)
    total = Wide(a_high * b_high, a_low * b_low)
    for middle in (a_high * b_low, a_low * b_high):
        total = plus(total, Wide(middle // HALF, middle % HALF * HALF))
    return total


def plus(a: Wide, b: Wide) -> Wide:
    """a + b."""
    low = a.low + b.low
    return Wide(a.high + b.high + (low < a.low), low)


def minus(a: Wide, b: Wide) -> Wide:
    """max(a − b, 0)."""
    is_less = less(a, b)
    high, low = a.high - b.high - (a.low < b.low), a.low - b.low
    return Wide(jnp.where(is_less, 0, high), jnp.where(is_less, 0, low))


def less(a: Wide, b: Wide) -> Bool[Array, "*b"]:
    """a < b."""
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def to_float(a: Wide) -> Float[Array, "*b"]:
    """a as float32, rounded to one of the two nearest values."""
    return a.high.astype(jnp.float32) * float(WORD) + a.low.astype(jnp.float32)


def whole_parts(a: Wide, part: int) -> Int[Array, "*b"]:
    """⌊a / part⌋, exactly, for results below 2²⁴. The float quotient may be wrong by one; integers
    correct it."""
    guess = jnp.floor(to_float(a) / float(part)).astype(jnp.int32)
    for _ in range(2):
        guess = jnp.where(less(a, _product(guess, part)), guess - 1, guess)
        guess = jnp.where(less(a, _product(guess + 1, part)), guess, guess + 1)
    return guess


def _product(count: Int[Array, "*b"], factor: int) -> Wide:
    """count × factor, for a product below 2⁶⁴."""
    upper = times(count, factor // WORD)
    return plus(Wide(upper.low, jnp.zeros_like(upper.low)), times(count, factor % WORD))

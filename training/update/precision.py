"""The type of stored weights, and the precision of products.

Weights in bfloat16 have 8 bits: rounding to the nearest would lose an update smaller than 1/256 of
a weight. They are rounded up or down at random instead, each with the probability that makes the
mean right (Gupta et al. 2015, arXiv:1502.02551), so that small updates add up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, PyTree, UInt32

from training.config import MatmulPrecision, ParamDtype
from training.saved.digests import mix
from trees import is_stacked, map_named

TAG = 0x726F756E  # apart from the keys of examples


def narrow(params: PyTree, dtype: ParamDtype) -> PyTree:
    """Matrices and tables rounded to the nearest in `dtype`; norms and biases are unchanged."""

    def one(name: str, leaf: Array) -> Array:
        is_matrix = leaf.ndim - is_stacked(name) >= 2
        return leaf.astype(dtype) if is_matrix else leaf

    return map_named(one, params)


def widen(params: PyTree) -> PyTree:
    """The tree in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def round_like(exact: PyTree, kept: PyTree, key: Key[Array, ""]) -> PyTree:
    """`exact`, in float32, with the dtypes of `kept`. Narrower ones are rounded at random, as a
    function of the key alone."""
    leaves, treedef = jax.tree.flatten(exact)
    rounded = [
        leaf if old.dtype == leaf.dtype else round_randomly(leaf, jax.random.fold_in(key, i))
        for i, (leaf, old) in enumerate(zip(leaves, jax.tree.leaves(kept), strict=True))
    ]
    return jax.tree.unflatten(treedef, rounded)


def round_randomly(x: Float32[Array, "*s"], key: Key[Array, ""]) -> Array:
    """x in bfloat16, the upper half of a float32's bits: random bits are added to the lower half,
    which is then dropped. Numbers without a lower half, NaN and infinity are unchanged."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _noise(x.shape, key) >> 16
    upper = (bits + jnp.where(jnp.isfinite(x), noise, 0)) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(upper, jnp.float32).astype(jnp.bfloat16)


def _noise(shape: tuple[int, ...], key: Key[Array, ""]) -> UInt32[Array, "..."]:
    """A hash of the key and of each place (the finaliser of MurmurHash3), computed at its use.
    jax's own random bits would take memory, 8 bytes for each."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place + index * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return mix(mix(place ^ first) + second)


def at_precision(function: Callable[..., Any], precision: MatmulPrecision) -> Callable[..., Any]:
    """`function` with its float32 products at that precision, unless they name their own."""
    if precision == "default":
        return function

    def precise(*arguments: object) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments)

    return precise

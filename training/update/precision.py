"""The dtype of stored weights, and the precision of matrix products.

A bfloat16 weight has 8 significant bits, so rounding to the nearest would lose every update smaller
than 1/256 of the weight. Weights are therefore rounded stochastically (Gupta et al. 2015,
arXiv:1502.02551): the mean of the rounding is exact, and small updates add up.
"""

import contextlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, PyTree, UInt32

from common.trees import is_stacked, map_named
from training.config import MatmulPrecision, ParamDtype
from training.saved.digests import mix

TAG = 0x726F756E  # keeps this key different from the keys of examples


def to_param_dtype(params: PyTree, dtype: ParamDtype) -> PyTree:
    """The parameters with matrices and tables rounded to `dtype`; norms and biases unchanged."""

    def rounded(name: str, leaf: Array) -> Array:
        is_matrix = leaf.ndim - is_stacked(name) >= 2
        return leaf.astype(dtype) if is_matrix else leaf

    return map_named(rounded, params)


def to_float32(params: PyTree) -> PyTree:
    """The tree in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def round_like(exact: PyTree, kept: PyTree, key: Key[Array, ""]) -> PyTree:
    """`exact` (float32) in the dtypes of `kept`. Rounding to a narrower dtype is stochastic, and a
    function of the key."""
    leaves, treedef = jax.tree.flatten(exact)
    rounded = [
        leaf if old.dtype == leaf.dtype else round_randomly(leaf, jax.random.fold_in(key, i))
        for i, (leaf, old) in enumerate(zip(leaves, jax.tree.leaves(kept), strict=True))
    ]
    return jax.tree.unflatten(treedef, rounded)


def round_randomly(x: Float32[Array, "*s"], key: Key[Array, ""]) -> Array:
    """x in bfloat16, stochastically rounded. bfloat16 is the upper half of float32: random bits are
    added to the lower half, which is then dropped. Values that bfloat16 holds exactly, NaN and
    infinity are unchanged."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _noise(x.shape, key) >> 16
    upper = (bits + jnp.where(jnp.isfinite(x), noise, 0)) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(upper, jnp.float32).astype(jnp.bfloat16)


def _noise(shape: tuple[int, ...], key: Key[Array, ""]) -> UInt32[Array, "..."]:
    """32 random bits for each element: a hash of the key and the element's index (the finaliser of
    MurmurHash3). XLA fuses it into its use; jax.random.bits would allocate 8 bytes per element."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place + index * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return mix(mix(place ^ first) + second)


def at_precision(precision: MatmulPrecision) -> contextlib.AbstractContextManager[object]:
    """A context with this precision for float32 products that name none."""
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)

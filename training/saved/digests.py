"""Digests of the arrays of a state: small ones in NumPy, large ones on the devices that hold them.

Orbax writes atomically, but does not detect a flipped bit. The digest of an array has 64 bits: two
sums modulo 2³² over all elements, of the element's bits mixed with its index. Sums do not depend on
order, so the sharding does not matter. Mixing is one-to-one, so one changed element always changes
the digest.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped, UInt32

from common.trees import named_leaves

Words = TypeVar("Words", UInt32[Array, "..."], UInt32[np.ndarray, "..."])
DIGEST = re.compile(r"(\w{1,32})\[(?:\d{1,15},?)*\] [0-9a-f]{16}", re.ASCII)
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
SMALL = 1 << 16
"""Elements up to which an array is fetched: a program for each shape takes longer to compile."""


def leaf_digests(tree: PyTree) -> dict[str, str]:
    """Path → "dtype[shape] digest" of every array in a tree."""
    leaves = named_leaves(tree)
    # One at a time: where processes work together, many programs under way can block each other.
    folded = [
        _fold_here(np.asarray(leaf)) if _is_cheap_here(leaf) else jax.device_get(_fold(leaf))
        for _, leaf in leaves
    ]
    return {
        name: f"{describe(leaf)} {int(a):08x}{int(b):08x}"
        for (name, leaf), (a, b) in zip(leaves, folded, strict=True)
    }


def describe(leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> str:
    """A text such as float32[2,4]; also for shapes without arrays."""
    return f"{jnp.dtype(leaf.dtype)}[{','.join(map(str, leaf.shape))}]"


def is_digest(text: object) -> bool:
    """True if the text has the form of `leaf_digests`."""
    match = DIGEST.fullmatch(text) if isinstance(text, str) else None
    try:
        return match is not None and bool(jnp.dtype(match[1]).itemsize)
    except TypeError:
        return False


def shape_of(digest: str, like: PyTree) -> jax.ShapeDtypeStruct:
    """The shape and dtype that `describe` wrote, with the sharding of `like`."""
    dtype, _, shape = digest.split()[0].rstrip("]").partition("[")
    sizes = tuple(int(size) for size in shape.split(",") if size)
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype), sharding=like.sharding)


def check_fit(step: str, expected: Mapping[str, str], wanted: PyTree) -> None:
    """Raise ValueError naming the first array of a step with another shape or dtype."""
    have = {n: d.split()[0] for n, d in expected.items() if n.partition("/")[0] in wanted}
    want = {name: describe(leaf) for name, leaf in named_leaves(wanted)}
    for name in {**want, **have}:
        if have.get(name) != want.get(name):
            raise ValueError(
                f"checkpoint {step} does not fit this configuration: {name} is "
                f"{have.get(name, 'not in it')}, not {want.get(name, 'absent')}"
                + ("; --init_from=RUN takes its weights only" if "opt_state" in name else "")
            )


def json_digest(values: Mapping[str, object]) -> str:
    """A digest of the values as JSON with sorted keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_cheap_here(leaf: Array) -> bool:
    """True for a small array that this process can read, alike in all processes."""
    return leaf.size <= SMALL and (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _fold_here(array: Shaped[np.ndarray, "..."]) -> UInt32[np.ndarray, "2"]:
    """`_fold` in NumPy: the same bits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view(UNSIGNED[flat.dtype.itemsize]).astype(np.uint32)
    first, second = _mixes(bits, np.arange(bits.size, dtype=np.uint32))
    return np.stack([first.sum(dtype=np.uint32), second.sum(dtype=np.uint32)])


@jax.jit
def _fold(leaf: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
    """Two sums over all elements, each mixed with its row-major index."""
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place + index * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    first, second = _mixes(bits, place)
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _mixes(bits: Words, place: Words) -> tuple[Words, Words]:
    return mix(bits ^ mix(place)), mix(bits + mix(place ^ np.uint32(0x9E3779B9)))


def mix(x: Words) -> Words:
    """The finaliser of MurmurHash3, a bijection in which each bit affects every other."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

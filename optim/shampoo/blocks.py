"""Splits tensors into blocks and joins them, so that no preconditioner is larger than a block."""

from collections.abc import Sequence
from itertools import product
from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Shape = tuple[int, ...]


def merge_shape(shape: Shape, limit: int) -> Shape:
    """The shape with neighbouring dimensions merged while their product is at most `limit`.

    [1, 2, 512, 1, 2048, 1, 3, 4] → [1024, 2048, 12] for 1024. Anil et al. 2020, arXiv:2002.09018.
    """
    merged: list[int] = []
    for size in (d for d in shape if d > 1):
        if merged and merged[-1] * size <= limit:
            merged[-1] *= size
        else:
            merged.append(size)
    return tuple(merged) or shape[:1]


def split_blocks(x: Float[Array, "layers ..."], block: int) -> list[Float[Array, "_ ..."]]:
    """The blocks of every layer: one stack for each shape of block.

    A dimension is split into blocks of `block` entries (0 = one block for the whole dimension) and
    a shorter one at its end. A matrix therefore has up to four shapes of block. The stacks are in
    row-major order, and so are the blocks in each stack.
    """
    return [_stacked(x[_window(segments)], segments) for segments in _kinds(x.shape[1:], block)]


def join_blocks(pieces: Sequence[Float[Array, "_ ..."]], shape: Shape, block: int) -> Array:
    """The inverse of `split_blocks`: an array [layers, *shape]."""
    kinds = _kinds(shape, block)
    parts = [_laid_out(piece, segments) for piece, segments in zip(pieces, kinds, strict=True)]
    return jnp.block(_nested(parts, [len(_segments(size, block)) for size in shape]))


Segment = tuple[int, int, int]  # first entry, number of blocks, entries of a block


def _segments(size: int, block: int) -> list[Segment]:
    if not 0 < block < size:
        return [(0, 1, size)]
    count, rest = divmod(size, block)
    return [(0, count, block)] + ([(count * block, 1, rest)] if rest else [])


def _kinds(shape: Shape, block: int) -> list[tuple[Segment, ...]]:
    return list(product(*(_segments(size, block) for size in shape)))


def _window(segments: tuple[Segment, ...]) -> tuple[slice, ...]:
    ends = (slice(start, start + count * width) for start, count, width in segments)
    return slice(None), *ends


def _stacked(x: Array, segments: tuple[Segment, ...]) -> Array:
    """[layers, c₁·w₁, c₂·w₂ …] → [layers·c₁·c₂ …, w₁, w₂ …]"""
    rank, widths = len(segments), [width for _, _, width in segments]
    both = [n for _, count, width in segments for n in (count, width)]
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
    return x.reshape(len(x), *both).transpose(order).reshape(-1, *widths)


def _laid_out(piece: Array, segments: tuple[Segment, ...]) -> Array:
    """[layers·c₁·c₂ …, w₁, w₂ …] → [layers, c₁·w₁, c₂·w₂ …]"""
    rank, counts = len(segments), [count for _, count, _ in segments]
    order = [0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d))]
    apart = piece.reshape(len(piece) // prod(counts), *counts, *piece.shape[1:])
    return apart.transpose(order).reshape(len(apart), *(c * w for _, c, w in segments))


def _nested(parts: list[Array], counts: Sequence[int]) -> PyTree:
    """Parts in row-major order, as the nested lists that jnp.block takes."""
    if not counts:
        return parts[0]
    size = len(parts) // counts[0]
    return [_nested(parts[i : i + size], counts[1:]) for i in range(0, len(parts), size)]

"""Tensors split into blocks, so that no preconditioner is larger than a block."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

Shape = tuple[int, ...]


def merge_shape(shape: Shape, limit: int) -> Shape:
    """Neighbouring dimensions are merged while their product stays within the limit.

    [1, 2, 512, 1, 2048, 1, 3, 4] → [1024, 2048, 12] for 1024. Anil et al. 2020, arXiv:2002.09018.
    """
    merged: list[int] = []
    for size in (d for d in shape if d > 1):
        if merged and merged[-1] * size <= limit:
            merged[-1] *= size
        else:
            merged.append(size)
    return tuple(merged) or shape[:1]


def cut(x: Float[Array, "layers ..."], block: int) -> list[Float[Array, "_ ..."]]:
    """The blocks of every layer, stacked by shape: whole ones, and the rests at the edges.

    Along a dimension there are blocks of `block` entries (0 = the whole of it) and a rest, so a
    matrix has up to four kinds. The kinds stand in row-major order, and so do the jobs of each.
    """
    return [_stacked(x[_window(kind)], kind) for kind in _kinds(x.shape[1:], block)]


def join(pieces: Sequence[Float[Array, "_ ..."]], shape: Shape, block: int) -> Array:
    """Back to [layers, *shape] from what `cut` made of it."""
    kinds = _kinds(shape, block)
    parts = [_laid_out(piece, kind) for piece, kind in zip(pieces, kinds, strict=True)]
    return jnp.block(_nested(parts, [len(_segments(size, block)) for size in shape]))


Segment = tuple[int, int, int]  # where it starts, how many blocks, entries of each


def _segments(size: int, block: int) -> list[Segment]:
    if not 0 < block < size:
        return [(0, 1, size)]
    count, rest = divmod(size, block)
    return [(0, count, block)] + ([(count * block, 1, rest)] if rest else [])


def _kinds(shape: Shape, block: int) -> list[tuple[Segment, ...]]:
    return list(product(*(_segments(size, block) for size in shape)))


def _window(kind: tuple[Segment, ...]) -> tuple[slice, ...]:
    ends = (slice(start, start + count * width) for start, count, width in kind)
    return slice(None), *ends


def _stacked(x: Array, kind: tuple[Segment, ...]) -> Array:
    """[layers, c₁·w₁, c₂·w₂ …] → [layers·c₁·c₂ …, w₁, w₂ …]"""
    rank, widths = len(kind), [width for _, _, width in kind]
    both = [n for _, count, width in kind for n in (count, width)]
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
    return x.reshape(len(x), *both).transpose(order).reshape(-1, *widths)


def _laid_out(piece: Array, kind: tuple[Segment, ...]) -> Array:
    """[layers·c₁·c₂ …, w₁, w₂ …] → [layers, c₁·w₁, c₂·w₂ …]"""
    rank, counts = len(kind), [count for _, count, _ in kind]
    order = [0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d))]
    apart = piece.reshape(len(piece) // prod(counts), *counts, *piece.shape[1:])
    return apart.transpose(order).reshape(len(apart), *(c * w for _, c, w in kind))


def _nested(parts: list[Array], counts: Sequence[int]) -> Any:
    """Row-major parts as the nested lists that jnp.block takes."""
    if not counts:
        return parts[0]
    size = len(parts) // counts[0]
    return [_nested(parts[i : i + size], counts[1:]) for i in range(0, len(parts), size)]

"""The order of examples: a pure function of (seed, position) that takes constant time and memory.

Each epoch is a permutation: a keyed Feistel network (Luby & Rackoff 1988) over the next power of
two, applied again until the result is in range (Black & Rogaway 2002). The hash is the finaliser
of SplitMix64 (Steele et al. 2014).
"""

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 8
_ORDER, _WINDOWS, _SHIFT = 1, 5, 6  # purposes of random numbers, mixed into their keys
_TOGETHER = 8  # windows whose rows are shuffled together


def order(seed: int, positions: Int64[np.ndarray, " b"], count: int) -> Int64[np.ndarray, " b"]:
    """The index, below `count`, at each position of an endless stream. Each epoch (`count`
    positions) holds all indices once, in another order."""
    epochs, places = np.divmod(positions, count)
    keys = hash_of(seed, _ORDER, epochs)
    return _walk(keys, places, count)


def _walk(
    keys: UInt64[np.ndarray, " b"], places: Int64[np.ndarray, " b"], count: int
) -> Int64[np.ndarray, " b"]:
    """A permutation of 0 … count − 1 per key."""
    indices = _permute(keys, places.astype(np.uint64), count)
    while (outside := indices >= count).any():
        indices[outside] = _permute(keys[outside], indices[outside], count)
    return indices.astype(np.int64)


def _permute(
    keys: UInt64[np.ndarray, " b"], x: UInt64[np.ndarray, " b"], count: int
) -> UInt64[np.ndarray, " b"]:
    """A permutation of 0 … 2^bits − 1 per key; 2^bits is the least power of two ≥ count, and ≥ 4.

    For odd `bits` the halves differ by one bit and swap widths in each round; after an even number
    of rounds the widths are restored.
    """
    bits = max(2, (count - 1).bit_length())
    width, other = bits - bits // 2, bits // 2
    high, low = x >> np.uint64(other), x & np.uint64((1 << other) - 1)
    for i in range(_ROUNDS):
        mask = np.uint64((1 << width) - 1)
        high, low = low, high ^ (_mix(keys + _mix(low + np.uint64(i << 40))) & mask)
        width, other = other, width
    return (high << np.uint64(other)) | low


def windowed(
    seed: int, positions: Int64[np.ndarray, " b"], count: int, window: int
) -> Int64[np.ndarray, " b"]:
    """`order` with local reads: each epoch visits windows of `window` rows in another order, and
    shuffles only the rows of eight windows at a time. 0 = `order`.

    The first window begins at another row in each epoch, so the borders move.
    """
    if not window or window * _TOGETHER >= count:
        return order(seed, positions, count)
    epochs, places = np.divmod(positions, count)
    together, whole = window * _TOGETHER, count // window
    groups, within = np.divmod(places, together)
    rows = np.zeros_like(positions)
    for size in {together, count % together} - {0}:  # the last group is smaller
        chosen = np.minimum(together, count - groups * together) == size
        keys = hash_of(seed, _WINDOWS, epochs[chosen], groups[chosen])
        rows[chosen] = groups[chosen] * together + _walk(keys, within[chosen], size)
    numbers, offsets = np.divmod(rows, window)
    is_whole = numbers < whole  # the rows after the last whole window stay last
    keys = hash_of(seed, _ORDER, epochs[is_whole])
    numbers[is_whole] = _walk(keys, numbers[is_whole], whole)
    shift = (hash_of(seed, _SHIFT, epochs) % np.uint64(count)).astype(np.int64)
    return (numbers * window + offsets + shift) % count


def hash_of(*parts: int | Int64[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    """64 pseudo-random bits that depend on every part and on their order."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix(state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return state


def _mix(x: UInt64[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""64-bit integers in 32-bit programs equal Python's."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim import wide
from optim.wide import Wide

NUMBERS = [0, 1, 2**16 - 1, 2**16, 2**24 + 1, 2**31, 2**32 - 1, 2**32, 3 * 2**32 + 5, 2**53 + 1]


def of(numbers: Sequence[int]) -> Wide:
    array = np.array(numbers, np.uint64)
    return Wide(jnp.uint32(array >> np.uint64(32)), jnp.uint32(array & np.uint64(2**32 - 1)))


def values(numbers: Wide) -> list[int]:
    high, low = (np.asarray(part).tolist() for part in numbers)
    return [a * 2**32 + b for a, b in zip(high, low, strict=True)]


def test_sums_differences_and_order_are_exact() -> None:
    pairs = list(itertools.product(NUMBERS, NUMBERS))
    a, b = (of(one) for one in zip(*pairs, strict=True))
    run = jax.jit(lambda a, b: (wide.plus(a, b), wide.minus(a, b), wide.less(a, b)))
    total, difference, is_less = run(a, b)
    assert values(total) == [x + y for x, y in pairs]
    assert values(difference) == [max(x - y, 0) for x, y in pairs]
    assert is_less.tolist() == [x < y for x, y in pairs]


@pytest.mark.parametrize("factor", [0, 3, 65537, 2**32 - 1])
def test_products_are_exact(factor: int) -> None:
    counts = [0, 1, 65535, 65536, 12345679, 2**31 - 1]
    found = jax.jit(lambda count: wide.times(count, factor))(jnp.array(counts))
    assert values(found) == [count * factor for count in counts]


def test_a_float_is_the_nearest_or_its_neighbour() -> None:
    found = np.asarray(wide.to_float(of(NUMBERS)), np.float64)
    assert (abs(found - NUMBERS) <= np.spacing(np.array(NUMBERS, np.float32))).all()


@pytest.mark.parametrize("part", [1, 7, 2**24 + 1, 10**10])
def test_whole_parts_are_exact_on_both_sides_of_each_border(part: int) -> None:
    counts = [0, 1, 2, 1000, 2**20 + 1, 2**23 + 1]
    run = jax.jit(lambda a: wide.whole_parts(a, part))
    assert run(of([count * part for count in counts])).tolist() == counts
    assert run(of([count * part + part - 1 for count in counts])).tolist() == counts


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is not within"):
        wide.wide(number)

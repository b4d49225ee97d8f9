"""A digest sees each changed bit, and neither the layout nor the place of its computation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training.saved import digests
from training.saved.digests import leaf_digests

DIGESTS = {
    "float32": "5c5b17fdb0321240",
    "bfloat16": "c2aec4afd2cf2ede",
    "float16": "577bb0cf1d356c14",
    "int8": "0e189e7635dff8e4",
    "bool": "0e189e7635dff8e4",
    "uint32": "0e189e7635dff8e4",
}
"""Of `example`: checkpoints hold such digests, so they must not change."""


def example(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (4, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", DIGESTS)
@pytest.mark.parametrize("small", [0, 24])
def test_an_array_has_the_same_digest_in_numpy_and_in_a_compiled_program(
    monkeypatch: pytest.MonkeyPatch, dtype: str, small: int
) -> None:
    monkeypatch.setattr(digests, "SMALL", small)
    array = jnp.asarray(example(dtype))
    assert leaf_digests({"x": array}) == {"x": f"{dtype}[4,6] {DIGESTS[dtype]}"}


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5), (1, 257)])
def test_shapes_have_the_same_digest_in_numpy_and_in_a_compiled_program(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    array = jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))
    here = leaf_digests({"x": array})
    monkeypatch.setattr(digests, "SMALL", -1)
    assert leaf_digests({"x": array}) == here


@pytest.mark.parametrize("dtype", DIGESTS)
def test_each_changed_bit_changes_the_digest_and_the_layout_does_not(dtype: str) -> None:
    array = example(dtype)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put(array, NamedSharding(mesh, PartitionSpec("data")))
    one = leaf_digests({"x": jnp.asarray(array)})
    assert leaf_digests({"x": spread}) == one
    for byte, bit in itertools.product(range(array.dtype.itemsize), range(8)):
        changed = array.copy()
        changed.view(np.uint8).reshape(4, 6, -1)[2, 3, byte] ^= 1 << bit
        assert leaf_digests({"x": jnp.asarray(changed)}) != one
        if dtype == "bool":  # has one bit
            break
    assert leaf_digests({"x": jnp.asarray(array.reshape(6, 4))}) != one

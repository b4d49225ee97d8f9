"""Products of few rows, as drawing makes them, equal the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import layers
from model.layers import first_largest, in_panels, matmul


@pytest.fixture(autouse=True)
def every_kernel_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "WIDE", 1)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_the_layout_of_a_kernel_changes_no_product(rows: int) -> None:
    x = jax.random.normal(jax.random.key(0), (rows, 1, 12))
    kernel = jax.random.normal(jax.random.key(1), (12, 128))
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    panels = in_panels(kernel)
    assert panels.shape == (2, 12, 64)
    for laid_out in (kernel, panels):
        product = matmul(x, laid_out, jnp.dtype(jnp.float32))
        assert product.shape == (rows, 1, 128)
        np.testing.assert_allclose(product, expected, atol=1e-5)


def test_a_kernel_that_makes_no_whole_panels_stays() -> None:
    kernel = jnp.ones((12, 100))
    assert in_panels(kernel) is kernel


def test_a_product_of_few_rows_has_the_plain_gradient() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 12))
    kernel = jax.random.normal(jax.random.key(1), (12, 20))

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(matmul(x, kernel, jnp.dtype(jnp.float32))).sum()

    plain = jax.grad(lambda x, kernel: jnp.square(x @ kernel).sum(), argnums=(0, 1))
    for got, wanted in zip(
        jax.grad(loss, argnums=(0, 1))(x, kernel), plain(x, kernel), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_of_the_largest_is_taken() -> None:
    x = jnp.array([[[0.0, 2.0, 2.0], [-1.0, -3.0, -2.0]], [[-jnp.inf] * 3, [1.0, 0.0, jnp.inf]]])
    np.testing.assert_array_equal(first_largest(x), x.argmax(-1))

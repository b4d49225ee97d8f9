"""Products with few rows, as in drawing, equal the plain product."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import products
from model.layers import first_largest
from model.products import in_panels, matmul, product, product_of_rows


@pytest.fixture(autouse=True)
def every_kernel_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WIDE", 1)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_the_layout_of_a_kernel_changes_no_product(rows: int) -> None:
    x, kernel = normal(rows, 1, 12), normal(12, 128, seed=1)
    expected = x.astype(np.float64) @ kernel.astype(np.float64)
    panels = jax.jit(in_panels)(kernel)
    assert panels.shape == (2, 12, 64)
    for laid_out in (kernel, panels):
        product = jax.jit(matmul, static_argnums=2)(x, laid_out, jnp.dtype(jnp.float32))
        assert product.shape == (rows, 1, 128)
        np.testing.assert_allclose(product, expected, atol=1e-5)


def test_a_kernel_that_makes_no_whole_panels_stays() -> None:
    kernel = jnp.ones((12, 100))
    assert in_panels(kernel) is kernel


def test_a_product_of_few_rows_has_the_plain_gradient() -> None:
    x, kernel = normal(8, 12), normal(12, 20, seed=1)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(matmul(x, kernel, jnp.dtype(jnp.float32))).sum()

    plain = jax.jit(jax.grad(lambda x, kernel: jnp.square(x @ kernel).sum(), argnums=(0, 1)))
    ours = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for got, wanted in zip(ours(x, kernel), plain(x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_of_the_largest_is_taken() -> None:
    x = jnp.array([[[0.0, 2.0, 2.0], [-1.0, -3.0, -2.0]], [[-jnp.inf] * 3, [1.0, 0.0, jnp.inf]]])
    np.testing.assert_array_equal(first_largest(x), x.argmax(-1))


SHAPES = [((72, 8), (8, 12)), ((72, 12), (12, 8)), ((2, 3, 5, 4), (2, 3, 4, 7)), ((1, 1), (1, 1))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_products_have_the_gradients_of_plain_ones(
    shapes: tuple[tuple[int, ...], ...], dtype: str
) -> None:
    a, b = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    weight = jnp.asarray(normal(*a.shape[:-1], b.shape[-1], seed=2))
    limit = 1e-5 if dtype == "float32" else 3e-2

    def ours(a: jax.Array, b: jax.Array) -> jax.Array:
        return product(a.astype(dtype), b.astype(dtype))

    def by_rows(a: jax.Array, b: jax.Array) -> jax.Array:
        return product_of_rows(a.astype(dtype), b.swapaxes(-1, -2).astype(dtype))

    def all_three(function: Callable[[jax.Array, jax.Array], jax.Array]) -> list[jax.Array]:
        value, pull = jax.vjp(function, a, b)
        return [value, *pull(weight)]

    compiled = jax.jit(all_three, static_argnums=0)
    wanted = compiled(lambda a, b: jnp.matmul(a, b, precision="highest"))
    for function in (ours, by_rows):
        for one, other in zip(compiled(function), wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=limit * float(np.abs(other).max()))


@pytest.mark.parametrize("shapes", SHAPES[:3])
def test_no_product_of_a_gradient_reads_an_operand_transposed(
    shapes: tuple[tuple[int, ...], ...],
) -> None:
    a, b = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    gradient = jax.grad(lambda a, b: jnp.square(product(a, b)).sum(), argnums=(0, 1))
    text = jax.jit(gradient).lower(a, b).compile().as_text()
    read = re.findall(r"lhs_contracting_dims={(\d)}.*rhs_contracting_dims={(\d)}", text or "")
    axis = a.ndim - 1
    assert len(read) >= 3
    assert {(int(left), int(right)) for left, right in read} == {(axis, axis - 1)}

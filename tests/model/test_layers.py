"""Each layer equals an independent reference in NumPy, float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import mix, weigh
from model.config import Activation
from model.layers import ACTIVATIONS, dropout, layer_norm, rms_norm
from model.products import matmul

RNG = np.random.default_rng(0)


def test_layer_norm_and_rms_norm_match_their_definitions() -> None:
    x, scale, bias = RNG.normal(size=(5, 8)) * 3 + 1, RNG.normal(size=8), RNG.normal(size=8)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    found = jax.jit(layer_norm)(np.float32(x), np.float32(scale), np.float32(bias))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    found = jax.jit(rms_norm)(np.float32(x), np.float32(scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_norms_compute_in_float32_whatever_comes_in() -> None:
    x = np.full((1, 4), 300.0, np.float16)  # its square overflows float16
    found = np.asarray(jax.jit(rms_norm)(x, np.ones(4, np.float32)))
    assert np.isfinite(found).all()
    assert found.dtype == np.float16


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("gelu", lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
        (
            "gelu_tanh",
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("relu", lambda x: max(x, 0.0)),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("smelu", lambda x: 0.0 if x <= -1 else x if x >= 1 else (x + 1) ** 2 / 4),
    ],
)
def test_activations_match_their_definitions(name: Activation, reference) -> None:
    points = np.linspace(-4, 4, 33)
    found = jax.jit(ACTIVATIONS[name])(np.float32(points))
    np.testing.assert_allclose(found, [reference(x) for x in points], rtol=1e-5, atol=1e-6)


def test_attention_matches_its_definition() -> None:
    q, k, v = RNG.normal(size=(3, 2, 3, 5, 4))
    mask = np.tril(np.ones((5, 5), bool))
    expected = np.zeros_like(q)
    for b, h, i in np.ndindex(2, 3, 5):
        weights = np.exp(k[b, h, : i + 1] @ q[b, h, i] / 2)  # sqrt(4) = 2
        expected[b, h, i] = weights @ v[b, h, : i + 1] / weights.sum()
    attend = jax.jit(lambda q, k, v, mask: mix(weigh(q, k, mask, scale=0.5), v))
    found = attend(*np.asarray([q, k, v], np.float32), mask[None, None])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_products_have_half_precision_gradients(dtype) -> None:
    x = jnp.float32(RNG.normal(size=(2, 3, 8)))
    kernel = jnp.float32(RNG.normal(size=(8, 5)))
    weight = jnp.float32(RNG.normal(size=(2, 3, 5)))

    def loss(x, kernel, dtype):
        return (matmul(x, kernel, dtype).astype(jnp.float32) * weight).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    found = gradient(x, kernel, jnp.dtype(dtype))
    expected = gradient(x, kernel, jnp.dtype(jnp.float32))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.03 * float(np.abs(b).max()))


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    @jax.jit
    def drop(x: jax.Array) -> jax.Array:
        return dropout(x, 0.25, jax.random.split(jax.random.key(0), 4))

    dropped = np.asarray(drop(np.ones((4, 5000), np.float32)))
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    ones = np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(dropout(jnp.asarray(ones), 0.25, None), ones)

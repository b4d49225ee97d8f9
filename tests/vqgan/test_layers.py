"""Layers that compute in another order than in their definition."""

import jax
import jax.numpy as jnp
import numpy as np

from vqgan.layers import conv, conv_of_doubled, group_norm, init_conv


def test_a_doubled_picture_need_not_be_made_to_be_convolved() -> None:
    key = jax.random.key(0)
    params = {**init_conv(key, 5, 3), "bias": jnp.arange(3.0)}
    x = jax.random.normal(key, (2, 4, 6, 5))
    expected = conv(params, x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(conv_of_doubled(params, x), expected, atol=1e-5)


def test_a_group_has_mean_zero_and_variance_one_also_far_from_zero() -> None:
    x = 30 + jax.random.normal(jax.random.key(0), (2, 4, 6, 12))
    params = {"scale": jnp.linspace(1, 2, 12), "bias": jnp.arange(12.0)}
    groups = np.asarray(x, np.float64).reshape(2, 24, 3, 4)
    centred = groups - groups.mean((1, 3), keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + 1e-6)
    expected = unit.reshape(2, 4, 6, 12) * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(group_norm(params, x, groups=3), expected, atol=1e-4)

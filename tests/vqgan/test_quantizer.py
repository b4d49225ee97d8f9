"""The codebook: gradients, losses, k-means, revival of unused codes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqgan import quantizer


@pytest.fixture
def latents():
    return quantizer.normalize(jax.random.normal(jax.random.key(0), (2, 4, 4, 8)))


@pytest.fixture
def codes():
    return quantizer.normalize(jax.random.normal(jax.random.key(1), (16, 8)))


def test_the_nearest_code_is_the_nearest_by_brute_force(codes, latents):
    distances = np.linalg.norm(np.asarray(latents)[..., None, :] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(quantizer.nearest(codes, latents), distances.argmin(-1))


def test_quantized_latents_are_codes(codes, latents):
    quantized = quantizer.quantize(codes, latents)
    np.testing.assert_allclose(quantized.latents, codes[quantized.tokens], atol=1e-6)


def test_the_gradient_passes_straight_through(codes, latents):
    weights = jax.random.normal(jax.random.key(2), latents.shape)

    def painted(codes, latents):
        return (weights * quantizer.quantize(codes, latents).latents).sum()

    to_codes, to_latents = jax.grad(painted, argnums=(0, 1))(codes, latents)
    np.testing.assert_allclose(to_latents, weights, rtol=1e-6)
    np.testing.assert_array_equal(to_codes, 0)


def test_each_loss_moves_its_own_side(codes, latents):
    def gradients(name):
        def loss(codes, latents):
            return getattr(quantizer.quantize(codes, latents), name)

        return jax.grad(loss, argnums=(0, 1))(codes, latents)

    to_codes, to_latents = gradients("codebook_loss")
    assert jnp.abs(to_codes).max() > 0
    assert jnp.abs(to_latents).max() == 0
    to_codes, to_latents = gradients("commitment_loss")
    assert jnp.abs(to_codes).max() == 0
    assert jnp.abs(to_latents).max() > 0


def test_kmeans_uses_every_code():
    rare = 0.05 * jax.random.normal(jax.random.key(0), (100, 4)) + jnp.array([[1.0, 0, 0, 0]])
    background = 0.01 * jax.random.normal(jax.random.key(1), (1900, 4))
    latents = jnp.concatenate([background, rare])
    codes = quantizer.kmeans(latents, 32, jax.random.key(2))
    counts = quantizer.count(quantizer.nearest(codes, latents), 32)
    assert quantizer.usage(counts) == 1
    assert (codes[:, 0] > 0.5).sum() > 5, "the rare cluster has its share of codes"


def test_kmeans_needs_as_many_latents_as_codes():
    with pytest.raises(ValueError, match="8"):
        quantizer.kmeans(jnp.zeros((8, 2)), 16, jax.random.key(0))


def test_restart_revives_unused_codes_and_leaves_used_ones(latents):
    flat = latents.reshape(-1, 8)
    used = flat[:6]
    far = -jnp.tile(flat.mean(0, keepdims=True), (4, 1)) * 100
    codes = jnp.concatenate([used, far])
    before = quantizer.count(quantizer.nearest(codes, flat), 10)
    assert (before[6:] == 0).all()
    renewed, num_unused = quantizer.restart_unused(codes, flat, jax.random.key(3))
    assert num_unused == (before == 0).sum()
    np.testing.assert_array_equal(renewed[before > 0], codes[before > 0])
    after = quantizer.count(quantizer.nearest(renewed, flat), 10)
    assert (after > 0).all()


def test_perplexity_of_even_use_is_the_number_of_codes_used():
    counts = jnp.array([5, 5, 5, 5, 0, 0])
    np.testing.assert_allclose(quantizer.perplexity(counts), 4, rtol=1e-5)
    np.testing.assert_allclose(quantizer.usage(counts), 4 / 6, rtol=1e-5)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 2), (4,)])
def test_a_grid_s_points_are_reached_and_nearest_is_rounding(levels: tuple[int, ...]) -> None:
    grid = np.asarray(quantizer.fsq_grid(levels))
    assert grid.shape == (math.prod(levels), len(levels))
    assert [len(np.unique(column)) for column in grid.T] == [*levels]
    assert (grid == 0).all(axis=1).any()
    latents = 4 * jax.random.normal(jax.random.key(0), (4000, len(levels)))
    bounded = quantizer.bound(latents, levels)
    half = np.array(levels) // 2
    chosen = grid[np.asarray(quantizer.nearest(jnp.asarray(grid), bounded))]
    np.testing.assert_allclose(chosen * half, np.round(np.asarray(bounded) * half), atol=1e-5)
    for column, count in zip(chosen.T, levels, strict=True):
        assert len(np.unique(column)) == count


def test_bounding_keeps_zero_and_order() -> None:
    line = jnp.linspace(-9, 9, 201)[:, None]
    for count in (2, 3, 8):
        bounded = np.asarray(quantizer.bound(line, (count,)))[:, 0]
        assert bounded[100] == pytest.approx(0, abs=1e-6)
        assert (np.diff(bounded) >= -1e-6).all()

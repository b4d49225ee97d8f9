"""The codebook: gradients, losses, k-means, revival of unused codes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqgan import quantizer

NEAREST = jax.jit(quantizer.nearest)
"""One program. Without jit each operation is one, for each shape."""


def on_sphere(seed, *shape):
    drawn = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray((drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32))


@pytest.fixture
def latents():
    return on_sphere(0, 2, 4, 4, 8)


@pytest.fixture
def codes():
    return on_sphere(1, 16, 8)


def test_normalized_latents_have_unit_length():
    drawn = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    expected = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    np.testing.assert_allclose(jax.jit(quantizer.normalize)(drawn), expected, atol=1e-6)


def test_the_nearest_code_is_the_nearest_by_brute_force(codes, latents):
    distances = np.linalg.norm(np.asarray(latents)[..., None, :] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(NEAREST(codes, latents), distances.argmin(-1))


def test_quantized_latents_are_codes(codes, latents):
    quantized = jax.device_get(jax.jit(quantizer.quantize)(codes, latents))
    np.testing.assert_allclose(quantized.latents, np.asarray(codes)[quantized.tokens], atol=1e-6)


def test_the_gradient_passes_straight_through(codes, latents):
    weights = np.random.default_rng(2).normal(size=latents.shape).astype(np.float32)

    def painted(codes, latents):
        return (weights * quantizer.quantize(codes, latents).latents).sum()

    to_codes, to_latents = jax.jit(jax.grad(painted, argnums=(0, 1)))(codes, latents)
    np.testing.assert_allclose(to_latents, weights, rtol=1e-6)
    np.testing.assert_array_equal(to_codes, 0)


def test_each_loss_moves_its_own_side(codes, latents):
    def gradients(name):
        def loss(codes, latents):
            return getattr(quantizer.quantize(codes, latents), name)

        return jax.device_get(jax.jit(jax.grad(loss, argnums=(0, 1)))(codes, latents))

    to_codes, to_latents = gradients("codebook_loss")
    assert np.abs(to_codes).max() > 0
    assert np.abs(to_latents).max() == 0
    to_codes, to_latents = gradients("commitment_loss")
    assert np.abs(to_codes).max() == 0
    assert np.abs(to_latents).max() > 0


def test_kmeans_uses_every_code():
    random = np.random.default_rng(0)
    rare = random.normal(0, 0.05, (100, 4)) + np.array([[1.0, 0, 0, 0]])
    latents = np.concatenate([random.normal(0, 0.01, (1900, 4)), rare]).astype(np.float32)
    codes = np.asarray(quantizer.kmeans(jnp.asarray(latents), 32, jax.random.key(2)))
    counts = np.bincount(NEAREST(codes, latents), minlength=32)
    assert (counts > 0).all()
    assert (codes[:, 0] > 0.5).sum() > 5, "the rare cluster has its share of codes"


def test_kmeans_needs_as_many_latents_as_codes():
    with pytest.raises(ValueError, match="8"):
        quantizer.kmeans(jnp.zeros((8, 2)), 16, jax.random.key(0))


def test_restart_revives_unused_codes_and_leaves_used_ones(latents):
    flat = np.asarray(latents).reshape(-1, 8)
    far = -np.tile(flat.mean(0, keepdims=True), (4, 1)) * 100
    codes = np.concatenate([flat[:6], far])
    before = np.bincount(NEAREST(codes, flat), minlength=10)
    assert (before[6:] == 0).all()
    restart = jax.jit(quantizer.restart_unused)
    renewed = jax.device_get(restart(codes, flat, jax.random.key(3)))
    np.testing.assert_array_equal(renewed[before > 0], codes[before > 0])
    after = np.bincount(NEAREST(renewed, flat), minlength=10)
    assert (after > 0).all()


def test_tokens_are_counted_by_code():
    tokens = np.array([[5, 0], [5, 3]], np.int32)
    counts = jax.jit(quantizer.count, static_argnums=1)(tokens, 6)
    np.testing.assert_array_equal(counts, [1, 0, 0, 1, 0, 2])


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
    latents = np.random.default_rng(0).normal(0, 4, (4000, len(levels))).astype(np.float32)

    @jax.jit
    def read(grid, latents):
        bounded = quantizer.bound(latents, levels)
        return bounded, quantizer.nearest(grid, bounded)

    bounded, tokens = jax.device_get(read(grid, latents))
    half = np.array(levels) // 2
    chosen = grid[tokens]
    np.testing.assert_allclose(chosen * half, np.round(bounded * half), atol=1e-5)
    for column, count in zip(chosen.T, levels, strict=True):
        assert len(np.unique(column)) == count


def test_bounding_keeps_zero_and_order() -> None:
    line = np.linspace(-9, 9, 201, dtype=np.float32)[:, None]
    bound = jax.jit(quantizer.bound, static_argnums=1)
    for count in (2, 3, 8):
        bounded = np.asarray(bound(line, (count,)))[:, 0]
        assert bounded[100] == pytest.approx(0, abs=1e-6)
        assert (np.diff(bounded) >= -1e-6).all()

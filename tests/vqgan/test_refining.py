"""Tokens found by trial: against brute force, and never worse than the nearest codes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import first_vqgan
from vqgan.autoencoder import build
from vqgan.quantizer import nearest, nearest_few, normalize
from vqgan.refining import around, refine

RANDOM = np.random.default_rng(0)


def uniform(*shape):
    return RANDOM.uniform(size=shape).astype(np.float32)


def refined(candidates, error):
    """`refine`, as one program."""
    return jax.jit(lambda candidates: refine(candidates, error))(candidates)


@pytest.fixture
def candidates():
    return RANDOM.integers(0, 40, (3, 4, 6, 5), np.int32)


def test_places_that_do_not_touch_get_the_best_of_their_codes(candidates):
    costs = uniform(4, 6, 40)

    def error(tokens):
        return jnp.take_along_axis(costs[None], tokens[..., None], -1)[..., 0]

    found = refined(candidates, error)
    of_all = np.take_along_axis(costs[None], candidates, -1)
    np.testing.assert_array_equal(error(found), of_all.min(-1))


def test_a_picture_of_one_place_gets_the_best_of_all_combinations():
    targets = uniform(8) * 30

    def error(tokens):
        return jnp.square(tokens - targets[:, None, None])

    candidates = RANDOM.integers(0, 30, (8, 1, 1, 6), np.int32)
    best = np.square(candidates - targets[:, None, None, None]).min(-1)
    np.testing.assert_allclose(error(refined(candidates, error)), best)


def test_no_picture_gets_worse_where_neighbours_depend_on_each_other(candidates):
    weights = RANDOM.normal(size=(3, 3)).astype(np.float32)

    def error(tokens):  # each place is painted from nine
        padded = jnp.pad(jnp.sin(tokens), ((0, 0), (1, 1), (1, 1)))
        painted = sum(
            weights[i, j] * padded[:, i : i + 4, j : j + 6]
            for i, j in itertools.product(range(3), repeat=2)
        )
        return jnp.square(painted - 1)

    error = jax.jit(error)
    before = np.asarray(error(candidates[..., 0])).sum((1, 2))
    after = np.asarray(error(refined(candidates, error))).sum((1, 2))
    assert (after < before).all()


def test_errors_around_a_place_are_those_of_its_square():
    errors = uniform(2, 4, 5)
    padded = np.pad(errors, ((0, 0), (1, 1), (1, 1)))
    expected = [
        [[padded[b, y : y + 3, x : x + 3].sum() for x in range(5)] for y in range(4)]
        for b in range(2)
    ]
    np.testing.assert_allclose(around(jnp.asarray(errors)), expected, rtol=1e-6)


def test_the_first_of_the_nearest_few_is_the_nearest():
    latents = normalize(jax.random.normal(jax.random.key(0), (2, 4, 4, 8)))
    codes = normalize(jax.random.normal(jax.random.key(1), (16, 8)))
    few = nearest_few(codes, latents, 3)
    np.testing.assert_array_equal(few[..., 0], nearest(codes, latents))
    distances = np.linalg.norm(np.asarray(latents)[..., None, :] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(few, distances.argsort(-1)[..., :3])


@pytest.mark.parametrize("changes", [{}, {"lookup": "fsq", "fsq_levels": (2, 2, 2, 4)}])
def test_encode_tries_codes_and_paints_no_picture_worse(tiny_vqgan, changes):
    config = dataclasses.replace(tiny_vqgan, **changes)
    params = first_vqgan(config)
    pixels = 2 * uniform(16, 16, 16, 3) - 1

    def error(tried):
        autoencoder = build(dataclasses.replace(config, tried_codes=tried))

        @jax.jit
        def paint(params, pixels):
            return autoencoder.decode(params, autoencoder.encode(params, pixels))

        painted = np.clip(paint(params, pixels), -1.0, 1.0)
        return np.square(painted - pixels).mean((1, 2, 3))

    tried, nearest_ones = error(3), error(1)
    assert (tried <= nearest_ones * (1 + 1e-6)).all()
    assert tried.mean() < nearest_ones.mean() * 0.999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tried_codes": 0}, "tried_codes must be at least 1"),
        ({"tried_codes": 33}, "tried_codes 33 are more than the 32 codes"),
        ({"tried_codes": 2, "lookup": "classifier"}, "--model.tried_codes=1"),
    ],
)
def test_numbers_that_cannot_be_tried_are_refused(tiny_vqgan, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_vqgan, **changes)

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


@pytest.fixture
def candidates():
    return jax.random.randint(jax.random.key(0), (3, 4, 6, 5), 0, 40)


def test_places_that_do_not_touch_get_the_best_of_their_codes(candidates):
    costs = jax.random.uniform(jax.random.key(1), (4, 6, 40))

    def error(tokens):
        return jnp.take_along_axis(costs[None], tokens[..., None], -1)[..., 0]

    found = refine(candidates, error)
    of_all = jnp.take_along_axis(costs[None], candidates, -1)
    np.testing.assert_array_equal(error(found), of_all.min(-1))


def test_a_picture_of_one_place_gets_the_best_of_all_combinations():
    targets = jax.random.uniform(jax.random.key(2), (8,)) * 30

    def error(tokens):
        return jnp.square(tokens - targets[:, None, None])

    candidates = jax.random.randint(jax.random.key(3), (8, 1, 1, 6), 0, 30)
    best = jnp.square(candidates - targets[:, None, None, None]).min(-1)
    np.testing.assert_allclose(error(refine(candidates, error)), best)


def test_no_picture_gets_worse_where_neighbours_depend_on_each_other(candidates):
    weights = jax.random.normal(jax.random.key(4), (3, 3))

    def error(tokens):  # each place is painted from nine
        padded = jnp.pad(jnp.sin(tokens), ((0, 0), (1, 1), (1, 1)))
        painted = sum(
            weights[i, j] * padded[:, i : i + 4, j : j + 6]
            for i, j in itertools.product(range(3), repeat=2)
        )
        return jnp.square(painted - 1)

    before = error(candidates[..., 0]).sum((1, 2))
    after = error(refine(candidates, error)).sum((1, 2))
    assert (after < before).all()


def test_errors_around_a_place_are_those_of_its_square():
    errors = jax.random.uniform(jax.random.key(5), (2, 4, 5))
    padded = np.pad(errors, ((0, 0), (1, 1), (1, 1)))
    expected = [
        [[padded[b, y : y + 3, x : x + 3].sum() for x in range(5)] for y in range(4)]
        for b in range(2)
    ]
    np.testing.assert_allclose(around(errors), expected, rtol=1e-6)


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
    pixels = jax.random.uniform(jax.random.key(6), (16, 16, 16, 3), minval=-1.0)

    def error(tried):
        autoencoder = build(dataclasses.replace(config, tried_codes=tried))
        tokens = jax.jit(autoencoder.encode)(params, pixels)
        painted = jnp.clip(autoencoder.decode(params, tokens), -1.0, 1.0)
        return jnp.square(painted - pixels).mean((1, 2, 3))

    assert (error(3) <= error(1) * (1 + 1e-6)).all()
    assert error(3).mean() < error(1).mean() * 0.999


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

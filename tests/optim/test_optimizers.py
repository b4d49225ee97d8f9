"""Optimizers, schedules, accumulation and loss scaling against their definitions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.accumulate import accumulate
from optim.config import OptimConfig
from optim.loss_scale import FLOOR, WINDOW, LossScale, adjust, init_loss_scale, is_finite
from optim.optimizers import is_decayed, make_optimizer
from optim.schedules import make_schedule

CONFIG = OptimConfig(learning_rate=0.1, warmup_steps=10, decay_fraction=0.5)


def test_the_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    rate = np.array([make_schedule(CONFIG, 100)(jnp.int32(n)) for n in range(101)])
    np.testing.assert_allclose(rate[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rate[10:51], 0.1, rtol=1e-6)
    assert (np.diff(rate[50:]) < 0).all()
    assert rate[100] == 0
    assert rate[75] == pytest.approx(0.05)


def test_more_steps_change_only_the_decay() -> None:
    short, long = make_schedule(CONFIG, 100), make_schedule(CONFIG, 1000)
    for n in range(51):
        assert short(jnp.int32(n)) == long(jnp.int32(n))


def test_adamw_matches_its_definition() -> None:
    config = OptimConfig(clip_norm=0.0, weight_decay=0.1, beta1=0.9, beta2=0.98)
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    params = {"dense": {"kernel": jnp.float32(rng.normal(size=(3, 2)))}}
    state = optimizer.init(params)
    mean = square = np.zeros((3, 2))
    for n in range(1, 6):
        gradient = rng.normal(size=(3, 2))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * gradient**2
        kernel = np.array(params["dense"]["kernel"], np.float64)
        expected = mean / (1 - 0.9**n) / (np.sqrt(square / (1 - 0.98**n)) + 1e-8) + 0.1 * kernel
        updates, state = optimizer.update(
            {"dense": {"kernel": jnp.float32(gradient)}}, state, params
        )
        np.testing.assert_allclose(updates["dense"]["kernel"], expected, rtol=1e-4, atol=1e-5)
        params = jax.tree.map(lambda p, u: p - 0.01 * u, params, updates)


def test_sgd_is_momentum_of_clipped_gradients() -> None:
    optimizer = make_optimizer(OptimConfig(name="sgd", clip_norm=1.0, beta1=0.5))
    params = {"kernel": jnp.zeros(2)}
    state = optimizer.init(params)
    large = {"kernel": jnp.float32([3.0, 4.0])}  # of norm 5
    first, state = optimizer.update(large, state, params)
    second, _ = optimizer.update(large, state, params)
    np.testing.assert_allclose(first["kernel"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(second["kernel"], [0.9, 1.2], rtol=1e-6)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    leaf = jnp.ones(1)
    params = {"q": {"kernel": leaf, "bias": leaf}, "norm": {"scale": leaf}, "tokens": leaf}
    decayed = {"q": {"kernel": True, "bias": False}, "norm": {"scale": False}, "tokens": False}
    assert is_decayed(params) == decayed


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_average_to_the_whole_batch(parts: int) -> None:
    x = jnp.float32(np.random.default_rng(0).normal(size=(8, 3)))
    found = accumulate(lambda part: {"mean": jnp.square(part).mean(0)}, x, parts)
    np.testing.assert_allclose(found["mean"], jnp.square(x).mean(0), rtol=1e-6)


def test_the_loss_scale_halves_on_overflow_and_doubles_after_a_window() -> None:
    scale = adjust(init_loss_scale(8.0), jnp.bool_(False))
    assert (float(scale.scale), int(scale.good_steps)) == (4.0, 0)
    for _ in range(WINDOW - 1):
        scale = adjust(scale, jnp.bool_(True))
    assert float(scale.scale) == 4.0
    assert float(adjust(scale, jnp.bool_(True)).scale) == 8.0
    at_floor = adjust(LossScale(jnp.float32(FLOOR), jnp.int32(0)), jnp.bool_(False))
    assert float(at_floor.scale) == FLOOR


def test_one_bad_number_makes_a_tree_not_finite() -> None:
    tree = {"a": jnp.ones(3), "b": jnp.ones(2)}
    assert is_finite(tree)
    assert not is_finite({**tree, "b": jnp.float32([1.0, np.nan])})


def test_a_fraction_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_fraction 2"):
        replace(CONFIG, decay_fraction=2.0)

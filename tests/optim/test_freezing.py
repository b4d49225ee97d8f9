"""Frozen parameters, and the average of the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim.averaging import init_ema, update_ema
from optim.config import OptimConfig, Optimizer
from optim.optimizers import make_optimizer

PARAMS: dict[str, Any] = {
    "encoder": {"run0": {"q": {"kernel": jnp.full((2, 3, 3), 0.5), "bias": jnp.ones((2, 3))}}},
    "text_embedding": {"tokens": jnp.full((4, 3), -0.0)},
    "head": {"kernel": jnp.ones((3, 4))},
}


def names_in(state: Any) -> str:
    return " ".join(
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)
    )


@pytest.mark.parametrize("name", ["adamw", "shampoo", "muon", "palm_adafactor"])
def test_frozen_parameters_keep_their_bits_and_have_no_state(name: Optimizer) -> None:
    config = OptimConfig(name=name, weight_decay=0.1, freeze=("encoder/*", "*tokens"))
    optimizer = make_optimizer(config)
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(2):
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(grads, state, params, learning_rate=jnp.float32(0.1))
        params = optax.apply_updates(params, jax.tree.map(lambda u: -0.1 * u, updates))
    for frozen in ("encoder", "text_embedding"):
        jax.tree.map(
            lambda old, new: np.testing.assert_array_equal(
                np.asarray(old).view(np.int32), np.asarray(new).view(np.int32)
            ),
            PARAMS[frozen],
            params[frozen],
        )
        assert frozen not in names_in(state)
    assert "head" in names_in(state)
    assert (params["head"]["kernel"] < 1).all()


def test_train_only_is_the_other_way_round() -> None:
    optimizer = make_optimizer(OptimConfig(train_only=("text_embedding/*",)))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert (updates["text_embedding"]["tokens"] > 0).all()
    assert not updates["head"]["kernel"].any()
    assert "head" not in names_in(state)


def test_the_clipped_norm_is_that_of_the_trained_parameters() -> None:
    grads = jax.tree.map(jnp.zeros_like, PARAMS) | {"head": {"kernel": jnp.full((3, 4), 100.0)}}
    grads["text_embedding"] = {"tokens": jnp.full((4, 3), 0.1)}
    optimizer = make_optimizer(OptimConfig(name="sgd", clip_norm=1.0, freeze=("head/*",)))
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(
        updates["text_embedding"]["tokens"], grads["text_embedding"]["tokens"]
    )


@pytest.mark.parametrize("field", ["freeze", "train_only"])
def test_a_pattern_that_matches_nothing_is_refused_by_name(field: str) -> None:
    given: dict[str, Any] = {field: ("head/*", "enkoder/*")}
    optimizer = make_optimizer(OptimConfig(**given))
    with pytest.raises(
        ValueError,
        match=rf"optim.{field} 'enkoder/\*' matches none of 4 parameters; the near",
    ):
        optimizer.init(PARAMS)


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ValueError, match="leave nothing to train"):
        make_optimizer(OptimConfig(freeze=("*",))).init(PARAMS)


def test_the_average_follows_the_weights_quickly_at_first() -> None:
    ema = init_ema({"kernel": jnp.zeros(3, jnp.bfloat16)})
    assert ema["kernel"].dtype == jnp.float32
    ones = {"kernel": jnp.ones(3)}
    ema = update_ema(ema, ones, 0.999, step=0)
    np.testing.assert_allclose(ema["kernel"], 0.9, rtol=1e-6)
    ema = update_ema({"kernel": jnp.zeros(3)}, ones, 0.99, jnp.int32(10_000))
    np.testing.assert_allclose(ema["kernel"], 0.01, rtol=1e-4)


def test_an_average_of_constant_weights_is_these_weights() -> None:
    params = {"kernel": jnp.float32([0.1, -3.0])}
    ema = init_ema(params)
    for step in range(5):
        ema = update_ema(ema, params, 0.9, step)
    np.testing.assert_array_equal(ema["kernel"], params["kernel"])

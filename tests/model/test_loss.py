"""The training objective: the decoder's inputs, and the losses."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.config import ModelConfig
from model.loss import (
    add_token_noise,
    cross_entropy,
    drop_captions,
    make_choice_loss,
    make_eval_loss,
    make_loss,
    shift_right,
)
from model.loss_config import LossConfig
from tests.tiny import first_params


def test_cross_entropy_matches_its_definition() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)) * 5
    labels = np.array([[0, 1, 2], [3, 4, 0]])
    chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    expected = np.log(np.exp(logits).sum(-1)) - chosen
    np.testing.assert_allclose(
        cross_entropy(jnp.float32(logits), jnp.asarray(labels)), expected, rtol=1e-5
    )


def test_decoder_inputs_are_the_image_behind_a_start_token() -> None:
    np.testing.assert_array_equal(shift_right(jnp.array([[5, 6, 7]]), 9), [[9, 5, 6]])


def test_captions_are_dropped_at_their_rate_and_only_whole() -> None:
    empty = np.array([[1, 0, 0, 0]], np.int32)

    @jax.jit
    def drop(tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        empty_caption = jnp.asarray(empty), jnp.asarray(empty == 1)
        keys = jax.random.split(jax.random.key(0), 2000)
        return drop_captions(tokens, mask, empty_caption, 0.1, keys)

    tokens, mask = jax.device_get(drop(np.full((2000, 4), 7, np.int32), np.ones((2000, 4), bool)))
    is_dropped = (tokens == empty).all(-1)
    assert is_dropped.mean() == pytest.approx(0.1, abs=0.02)
    assert ((tokens == 7).all(-1) | is_dropped).all()
    np.testing.assert_array_equal(mask.sum(-1), np.where(is_dropped, 1, 4))


def shares_of_changed_tokens(p: float, caption_only: float = 0.0) -> np.ndarray:
    """The share of changed tokens in each of 500 pictures."""

    @jax.jit
    def add() -> jax.Array:
        keys = jax.random.split(jax.random.key(0), 500)
        return add_token_noise(jnp.full((500, 64), 3), 1000, p, keys, caption_only)

    return (np.asarray(add()) != 3).mean(-1)


def test_token_noise_has_a_rate_of_its_own_for_each_picture() -> None:
    changed = shares_of_changed_tokens(0.3)
    assert changed.mean() == pytest.approx(0.3, abs=0.03)
    assert changed.max() > 0.5
    assert changed.min() < 0.05
    assert changed.max() < 0.85  # U(0, 0.6), and 64 draws


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_share_of_the_pictures_leaves_only_the_caption_to_go_by(p: float) -> None:
    changed = shares_of_changed_tokens(p, 0.25)
    is_blind = changed > 0.95
    assert is_blind.mean() == pytest.approx(0.25, abs=0.05)
    others = changed[~is_blind]
    assert others.mean() == pytest.approx(p, abs=0.03)
    assert others.max() <= (0.85 if p else 0.0)


def batch_of(config: ModelConfig, rows: int) -> Any:
    tokens = np.random.default_rng(0).integers(0, 20, (rows, config.image_length), np.int32)
    return {
        "text_tokens": np.ones((rows, config.text_length), np.int32),
        "text_mask": np.ones((rows, config.text_length), bool),
        "image_tokens": tokens,
    }


def test_noise_is_seen_but_never_asked_for(tiny: ModelConfig) -> None:
    rows, empty = 4, jnp.zeros((1, tiny.text_length), jnp.int32)
    batch = batch_of(tiny, rows)
    # This head always gives the right token, so the loss must be 0 however noisy the inputs are.
    answers = np.float32(100) * np.eye(tiny.image_vocab_size, dtype=np.float32)

    class Oracle(transformer.Transformer):
        def apply(self, params, text_tokens, text_mask, decoder_inputs, keys=None):
            seen.append(decoder_inputs)
            return jnp.asarray(answers[batch["image_tokens"]])

    seen: list = []
    config = LossConfig(caption_dropout=0.0, token_noise=0.5)
    loss = make_loss(Oracle(tiny), (empty, empty == 0), 20, config)

    @jax.jit
    def run(batch: Any) -> tuple[jax.Array, jax.Array]:
        value, _ = loss({}, batch, jax.random.split(jax.random.key(1), rows), None)
        return value, seen.pop()

    value, decoder_inputs = jax.device_get(run(batch))
    assert value < 1e-6
    start = transformer.build(tiny).decoder_start_token_id
    clean = np.concatenate([np.full((rows, 1), start), batch["image_tokens"][:, :-1]], axis=1)
    assert (decoder_inputs != clean).any()
    np.testing.assert_array_equal(decoder_inputs[:, 0], clean[:, 0])


@cache
def losses_of(config: ModelConfig, **more: float) -> tuple[float, float]:
    """The objective of a batch, and the metric beside it."""
    model, empty = transformer.build(config), jnp.zeros((1, config.text_length), jnp.int32)
    noisy = LossConfig(caption_dropout=0.3, token_noise=0.3, **more)
    loss = make_loss(model, (empty, empty == 0), 20, noisy)

    @jax.jit
    def run(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        value, metrics = loss(params, batch, jax.random.split(jax.random.key(1), 2), None)
        return value, metrics["train/cross_entropy"]

    value, metric = run(first_params(config), batch_of(config, 2))
    return float(value), float(metric)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2)])
def test_the_cross_entropy_stands_beside_the_objective(
    tiny: ModelConfig, smoothing: float, z_loss: float
) -> None:
    config = dataclasses.replace(tiny, encoder_depth=1, decoder_depth=1)
    objective, plain = losses_of(config, label_smoothing=smoothing, z_loss=z_loss)
    assert plain == pytest.approx(losses_of(config)[0], rel=1e-6)
    assert (objective == plain) == (not smoothing and not z_loss)


def test_label_smoothing_and_z_loss_are_as_published() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (2, 4, 7)), rng.integers(0, 7, (2, 4))
    target = np.eye(7)[labels] * 0.9 + 0.1 / 7
    log_z = np.log(np.exp(logits).sum(-1))
    expected = -(target * (logits - log_z[..., None])).sum(-1) + 1e-2 * log_z**2
    found = cross_entropy(jnp.float32(logits), jnp.asarray(labels), 0.1, 1e-2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_caption_is_wrong_if_another_one_makes_the_picture_likelier(tiny: ModelConfig) -> None:
    """Against the losses of each pair of picture and caption alone."""
    model, rng = transformer.build(tiny), np.random.default_rng(0)
    params = jax.tree.map(lambda x: 3.0 * x, model.init(jax.random.key(0)))  # captions matter
    rows, others = 6, 2
    texts = rng.integers(2, 20, (rows, 1 + others, tiny.text_length)).astype(np.int32)
    masks = np.arange(tiny.text_length) < rng.integers(1, tiny.text_length, (rows, 1 + others, 1))
    image_tokens = rng.integers(0, 20, (rows, tiny.image_length)).astype(np.int32)
    weight = np.array([1, 1, 1, 1, 1, 0], np.float32)
    evaluate = jax.jit(make_eval_loss(model))

    def loss_of(row: int, caption: int) -> float:
        pair: Any = {
            "text_tokens": texts[row, caption][None],
            "text_mask": masks[row, caption][None],
            "image_tokens": image_tokens[row][None],
            "weight": np.ones(1, np.float32),
        }
        return float(evaluate(params, pair)[0])

    losses = np.array([[loss_of(i, j) for j in range(1 + others)] for i in range(rows)])
    is_wrong = losses[:, 1:].min(1) < losses[:, 0]
    batch: Any = {
        "text_tokens": texts[:, 0],
        "text_mask": masks[:, 0],
        "other_tokens": texts[:, 1:],
        "other_mask": masks[:, 1:],
        "image_tokens": image_tokens,
        "weight": weight,
    }
    found = jax.jit(make_choice_loss(model))(params, batch)
    assert [float(x) for x in found] == [is_wrong[:5].sum(), 5]
    assert 0 < is_wrong[:5].sum() < 5
    same = {**batch, "other_tokens": texts[:, :1], "other_mask": masks[:, :1]}
    assert float(jax.jit(make_choice_loss(model))(params, same)[0]) == 0

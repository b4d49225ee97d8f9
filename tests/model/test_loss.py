"""The training objective: the decoder's inputs, and the losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.config import ModelConfig
from model.loss import add_token_noise, cross_entropy, drop_captions, make_loss, shift_right
from model.loss_config import LossConfig


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
    keys = jax.random.split(jax.random.key(0), 2000)
    empty = jnp.array([[1, 0, 0, 0]])
    tokens, mask = drop_captions(
        jnp.full((2000, 4), 7), jnp.ones((2000, 4), bool), (empty, empty == 1), 0.1, keys
    )
    is_dropped = (tokens == empty).all(-1)
    assert float(is_dropped.mean()) == pytest.approx(0.1, abs=0.02)
    assert ((tokens == 7).all(-1) | is_dropped).all()
    np.testing.assert_array_equal(mask.sum(-1), jnp.where(is_dropped, 1, 4))


def test_token_noise_has_a_rate_of_its_own_for_each_picture() -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    tokens = jnp.full((500, 64), 3)
    changed = (add_token_noise(tokens, 1000, 0.3, keys) != 3).mean(-1)
    assert float(changed.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(changed.max()) > 0.5
    assert float(changed.min()) < 0.05
    assert float(changed.max()) < 0.85  # U(0, 0.6), and 64 draws


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_share_of_the_pictures_leaves_only_the_caption_to_go_by(p: float) -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    tokens = jnp.full((500, 64), 3)
    changed = (add_token_noise(tokens, 1000, p, keys, 0.25) != 3).mean(-1)
    is_blind = changed > 0.95
    assert float(is_blind.mean()) == pytest.approx(0.25, abs=0.05)
    others = np.asarray(changed)[~np.asarray(is_blind)]
    assert others.mean() == pytest.approx(p, abs=0.03)
    assert others.max() <= (0.85 if p else 0.0)


def test_noise_is_seen_but_never_asked_for(tiny: ModelConfig) -> None:
    model = transformer.build(tiny)
    params = model.init(jax.random.key(0))
    empty = jnp.zeros((1, tiny.text_length), jnp.int32), jnp.ones((1, tiny.text_length), bool)
    rows = 4
    batch: Any = {
        "text_tokens": jnp.ones((rows, tiny.text_length), jnp.int32),
        "text_mask": jnp.ones((rows, tiny.text_length), bool),
        "image_tokens": jnp.arange(rows * tiny.image_length).reshape(rows, -1) % 20,
    }
    # This head always gives the right token, so the loss must be 0 however noisy the inputs are.
    answers = 100.0 * jax.nn.one_hot(batch["image_tokens"], tiny.image_vocab_size)

    class Oracle(transformer.Transformer):
        def apply(self, params, text_tokens, text_mask, decoder_inputs, keys=None):
            seen.append(decoder_inputs)
            return answers

    seen: list = []
    loss = make_loss(Oracle(tiny), empty, 20, LossConfig(caption_dropout=0.0, token_noise=0.5))
    keys = jax.random.split(jax.random.key(1), rows)
    assert float(loss(params, batch, keys, None)[0]) < 1e-6
    clean = shift_right(batch["image_tokens"], model.decoder_start_token_id)
    assert (seen[0] != clean).any()
    np.testing.assert_array_equal(seen[0][:, 0], clean[:, 0])


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2)])
def test_the_cross_entropy_stands_beside_the_objective(
    tiny: ModelConfig, smoothing: float, z_loss: float
) -> None:
    model, random = transformer.build(tiny), np.random.default_rng(0)
    params = model.init(jax.random.key(0))
    empty = jnp.zeros((1, tiny.text_length), jnp.int32)
    batch: Any = {
        "text_tokens": jnp.ones((2, tiny.text_length), jnp.int32),
        "text_mask": jnp.ones((2, tiny.text_length), bool),
        "image_tokens": jnp.asarray(random.integers(0, 20, (2, tiny.image_length))),
    }

    def run(**more: float) -> tuple[float, float]:
        config = LossConfig(caption_dropout=0.3, token_noise=0.3, **more)
        loss = make_loss(model, (empty, empty == 0), 20, config)
        value, metrics = loss(params, batch, jax.random.split(jax.random.key(1), 2), None)
        return float(value), float(metrics["train/cross_entropy"])

    objective, plain = run(label_smoothing=smoothing, z_loss=z_loss)
    assert run() == (plain, plain)
    assert (objective == plain) == (not smoothing and not z_loss)


def test_label_smoothing_and_z_loss_are_as_published() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (2, 4, 7)), rng.integers(0, 7, (2, 4))
    target = np.eye(7)[labels] * 0.9 + 0.1 / 7
    log_z = np.log(np.exp(logits).sum(-1))
    expected = -(target * (logits - log_z[..., None])).sum(-1) + 1e-2 * log_z**2
    found = cross_entropy(jnp.float32(logits), jnp.asarray(labels), 0.1, 1e-2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

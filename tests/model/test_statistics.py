"""Values inside the model (model/statistics.py) equal NumPy's."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import statistics, transformer
from model.attention import weigh
from model.loss import cross_entropy
from model.notes import note, taking
from tests.tiny import TINY, first_params


def test_attention_s_entropy_is_that_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    q, k = (jnp.float32(rng.normal(size=(2, 3, 4, 5))) for _ in range(2))
    mask = jnp.tril(jnp.ones((1, 1, 4, 4), bool))
    with taking() as notes:
        weigh(q, k, mask, 0.7)
    scores = np.where(mask, 0.7 * np.einsum("bhqe,bhke->bhqk", np.float64(q), np.float64(k)), -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1).mean()
    np.testing.assert_allclose(notes["attention/"], expected, rtol=1e-4)


def test_every_layer_is_named_and_tokens_and_predictions_have_their_entropies() -> None:
    model = transformer.build(TINY)
    rng = np.random.default_rng(0)
    batch: Any = {
        "text_tokens": jnp.int32(rng.integers(0, 32, (4, 6))),
        "text_mask": jnp.ones((4, 6), bool),
        "image_tokens": jnp.int32(rng.integers(0, 5, (4, 9))),
    }
    look = jax.jit(lambda params: statistics.batch_statistics(model, params, batch))
    found = statistics.finish(look(first_params(TINY)))
    layers = {f"{branch}/{i}" for branch in ("encoder", "decoder") for i in (0, 1)}
    attentions = {f"attention/{layer}" for layer in layers} | {
        f"attention/decoder/{i}/1" for i in (0, 1)
    }
    entropies = {"entropy/tokens", "entropy/predicted", "entropy/prediction"}
    assert found.keys() == {f"activation/{layer}" for layer in layers} | attentions | entropies
    shares = np.bincount(np.asarray(batch["image_tokens"]).ravel()) / 36
    np.testing.assert_allclose(found["entropy/tokens"], -(shares * np.log(shares)).sum(), rtol=1e-5)
    assert 0.95 * np.log(20) < found["entropy/prediction"] <= np.log(20) + 1e-4  # untrained
    assert all(0 < value < 50 for value in found.values())


def test_the_transformer_s_loss_has_products_with_its_hessian() -> None:
    """The gradients of its products are written by hand and must be differentiable again. The
    reference is the change of the gradient over a small step along a direction."""
    model = transformer.build(replace(TINY, encoder_depth=1, decoder_depth=1))
    rng = np.random.default_rng(0)
    text, tokens = (jnp.int32(rng.integers(0, 20, (2, n))) for n in (6, 9))

    def loss(params: Any) -> jax.Array:
        logits = model.apply(params, text, jnp.ones((2, 6), bool), tokens)
        return cross_entropy(logits, tokens).mean()

    def product(params: Any, direction: Any) -> tuple[Any, Any]:
        return jax.jvp(jax.grad(loss), (params,), (direction,))

    params = first_params(model.config)
    cosines = lambda p: np.float32(0.02 * np.cos(np.arange(p.size))).reshape(p.shape)  # noqa: E731
    direction = jax.tree.map(cosines, params)
    found = jax.jit(product)(params, direction)[1]
    step = 0.05
    gradient = jax.jit(jax.grad(loss))
    ends = [
        gradient(
            jax.tree.map(lambda p, d, s=s: np.asarray(p) + np.float32(s) * d, params, direction)
        )
        for s in (step, -step)
    ]
    away = jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * step), *ends)
    norm = lambda tree: np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree)))  # noqa: E731
    error = norm(jax.tree.map(np.subtract, found, away)) / norm(found)
    assert error < 0.02


def test_outside_of_a_look_a_note_computes_nothing() -> None:
    note("never", lambda: 1 / 0)  # type: ignore[arg-type,return-value]

"""Looks inside of the model against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from model import looking, transformer
from model.attention import weigh
from model.notes import note, taking
from tests.tiny import TINY


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
    batch = {
        "text_tokens": jnp.int32(rng.integers(0, 32, (4, 6))),
        "text_mask": jnp.ones((4, 6), bool),
        "image_tokens": jnp.int32(rng.integers(0, 5, (4, 9))),
    }
    found = looking.finish(looking.look_inside(model, model.init(jax.random.key(0)), batch))
    layers = {f"{branch}/{i}" for branch in ("encoder", "decoder") for i in (0, 1)}
    attentions = {f"attention/{one}" for one in layers} | {
        f"attention/decoder/{i}/1" for i in (0, 1)
    }
    entropies = {"entropy/tokens", "entropy/predicted", "entropy/prediction"}
    assert found.keys() == {f"activation/{one}" for one in layers} | attentions | entropies
    shares = np.bincount(np.asarray(batch["image_tokens"]).ravel()) / 36
    np.testing.assert_allclose(found["entropy/tokens"], -(shares * np.log(shares)).sum(), rtol=1e-5)
    assert 0.95 * np.log(20) < found["entropy/prediction"] <= np.log(20) + 1e-4  # untrained
    assert all(0 < value < 50 for value in found.values())


def test_outside_of_a_look_a_note_computes_nothing() -> None:
    note("never", lambda: 1 / 0)  # type: ignore[arg-type,return-value]

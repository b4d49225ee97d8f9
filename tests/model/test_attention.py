"""Less common parts of attention: Sinkhorn, cosine scores, biases and positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import softmax

from model.attention import Attention, mix, sinkhorn, weigh
from model.blocks import layer_norms, runs
from model.config import ModelConfig, Scores
from model.positions import offset_index, rotary_angles, rotate, sinusoidal

RNG = np.random.default_rng(0)


def test_one_sinkhorn_iteration_is_softmax_and_many_are_doubly_stochastic() -> None:
    scores = RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)
    everywhere = jnp.asarray(np.ones((1, 1, 1, 6), bool))
    once, weights = (np.asarray(sinkhorn(jnp.asarray(scores), everywhere, n)) for n in (1, 101))
    np.testing.assert_allclose(once, softmax(scores, axis=-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), np.ones((2, 3, 6)), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(-2), np.ones((2, 3, 6)), rtol=1e-4)


def test_sinkhorn_gives_padding_no_weight_and_finite_gradients() -> None:
    scores = RNG.normal(size=(1, 1, 4, 4)).astype(np.float32)
    mask = np.array([True, True, True, False])[None, None, None]
    assert (np.asarray(jax.jit(sinkhorn, static_argnums=2)(scores, mask, 4))[..., 3] == 0).all()

    @jax.jit
    @jax.grad
    def gradient(scores: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.square(sinkhorn(jnp.where(mask, scores, -1e30), mask, 4)).sum()

    assert np.isfinite(gradient(scores, mask)).all()


def test_grouped_heads_share_neighbouring_keys_and_values() -> None:
    q = RNG.normal(size=(2, 4, 5, 8)).astype(np.float32)
    k, v = RNG.normal(size=(2, 2, 2, 5, 8)).astype(np.float32)
    mask = np.tril(np.ones((5, 5), bool))[None, None]
    attend = jax.jit(lambda q, k, v, mask: mix(weigh(q, k, mask, 0.3), v))
    repeated = attend(q, np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1), mask)
    np.testing.assert_allclose(attend(q, k, v, mask), repeated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_rotary_scores_depend_on_the_distance_alone(rows: int) -> None:
    angles = rotary_angles(rows, 4, 8, 10_000.0)
    q, k = RNG.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    here, there = (np.tile(a, (1, 1, 4 * rows, 1)) for a in (q, k))
    multiply = jax.jit(lambda q, k, angles: rotate(q, angles) @ rotate(k, angles).mT)
    scores = np.asarray(multiply(here, there, angles))[0, 0]
    index = offset_index(rows, 4)
    for offset in np.unique(index):
        alike = scores[index == offset]
        np.testing.assert_allclose(alike, np.full(alike.shape, alike[0]), rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.round(scores, 4))) > rows * 4


def test_offsets_number_every_distance_once() -> None:
    index = offset_index(2, 3)
    place = [divmod(i, 3) for i in range(6)]
    distances = {
        (a, b): (place[a][0] - place[b][0], place[a][1] - place[b][1])
        for a in range(6)
        for b in range(6)
    }
    assert len({(index[ab], d) for ab, d in distances.items()}) == len(set(distances.values()))
    assert index.min() == 0
    assert index.max() == 3 * 5 - 1


def test_sinusoids_are_the_papers() -> None:
    table = sinusoidal(50, 8, 10_000.0)
    assert table.shape == (50, 8)
    assert table[7, 1] == pytest.approx(np.sin(7 / 10_000 ** (2 / 8)), abs=1e-6)
    assert table[7, 4 + 1] == pytest.approx(np.cos(7 / 10_000 ** (2 / 8)), abs=1e-6)


@pytest.mark.parametrize("scores", ["cosine", "qk_norm"])
def test_normed_scores_do_not_grow_with_the_weights(tiny: ModelConfig, scores: Scores) -> None:
    config = dataclasses.replace(tiny, scores=scores)
    attention = Attention(config, "encoder", None, jnp.dtype("float32"), nnx.Rngs(0))
    x, mask = RNG.normal(size=(2, 6, 16)).astype(np.float32), np.ones((2, 1, 1, 6), bool)

    def attend() -> jax.Array:
        graph, state = nnx.split(attention)

        @jax.jit
        def run(state: nnx.State, x: jax.Array, mask: jax.Array) -> jax.Array:
            merged = nnx.merge(graph, state)
            return merged(*merged.queries_keys_values(x), mask)

        return run(state, x, mask)

    expected = attend()
    for part in (attention.q, attention.k):
        part.kernel[...] = 1000 * part.kernel[...]
    found = attend()
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-4)


def test_odd_layers_make_runs_of_their_own(tiny: ModelConfig) -> None:
    def lengths(**switches: object) -> list[int]:
        config = dataclasses.replace(tiny, **switches)  # type: ignore[arg-type]
        return [depth for _, depth in runs(layer_norms(config, "decoder"))]

    assert lengths(decoder_depth=9) == [9]
    assert lengths(placement="swinv2", decoder_depth=5) == [5]
    assert lengths(placement="swinv2", decoder_depth=6) == [6]
    assert lengths(placement="swinv2", decoder_depth=13) == [5, 1, 5, 1, 1]
    assert lengths(placement="postln", decoder_depth=3) == [3]
    assert lengths(placement="postln", decoder_depth=3, closing_norm_scale=False) == [2, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block": "parallel", "placement": "postln"}, "parallel .* needs model.placement preln"),
        ({"tying": "all"}, "text_vocab_size 32 differs"),
        ({"tying": "all", "text_vocab_size": 20}, "no row for a start token"),
        ({"decoder_start_token_id": 21}, "beyond the 20 classes"),
        ({"num_kv_heads": 3}, "num_heads 2 is not a multiple of model.num_kv_heads 3"),
        ({"positions": "rotary", "num_heads": 8}, "a multiple of 4, not 2"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations must be at least 1"),
    ],
)
def test_switches_that_exclude_each_other_are_refused(
    tiny: ModelConfig, wrong: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny, **wrong)

"""Properties of the transformer that hold for every placement, norm and feed-forward."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from model import transformer
from model.config import ModelConfig
from tests.tiny import TINY, first_params, full_pass

SWITCHES: dict[str, dict[str, Any]] = {
    "preln": {},
    "preln-layernorm-bias": {"norm": "layernorm", "use_bias": True, "use_glu": False},
    "normformer": {"placement": "normformer", "norm": "layernorm", "force_norm_scale": False},
    "normformer-rmsnorm": {"placement": "normformer", "head_scale": True, "activation": "gelu"},
    "postln": {"placement": "postln", "use_bias": True, "activation": "relu"},
    "deepnet": {
        "placement": "postln",
        "norm": "layernorm",
        "force_norm_scale": False,
        "closing_norm_scale": False,
        "deepnet_scaling": True,
        "init": "deepnet",
    },
    "bart": {
        "placement": "postln",
        "norm": "layernorm",
        "tying": "all",
        "text_vocab_size": 20,
        "decoder_start_token_id": 2,
        "position_offset": 2,
        "logits_bias": True,
        "scale_embedding": True,
        "use_bias": True,
        "use_glu": False,
    },
    "swinv2": {
        "placement": "swinv2",
        "decoder_depth": 7,
        "scores": "cosine",
        "positions": "none",
        "relative_bias": "pair",
        "init_std": 0.002,
    },
    "cogview": {"placement": "cogview", "activation": "smelu", "encoder_final_norm": False},
    "subln": {"placement": "subln", "init": "subln", "decoder_num_heads": 4, "decoder_mlp_dim": 32},
    "palm": {
        "block": "parallel",
        "num_kv_heads": 1,
        "positions": "rotary",
        "tying": "output",
        "init": "palm",
        "embedding_norm": False,
        "logits_scale": 0.01,
    },
    "grouped-qk-norm": {"num_heads": 4, "num_kv_heads": 2, "scores": "qk_norm"},
    "sinusoidal-offset": {"positions": "sinusoidal", "relative_bias": "offset"},
    "sinkhorn": {"sinkhorn_iterations": 3, "encoder_final_norm": False},
    "parallel-pair-grouped": {
        "block": "parallel",
        "relative_bias": "pair",
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_scale": True,
    },
    "swinv2-rotary-multi-query": {
        "placement": "swinv2",
        "positions": "rotary",
        "num_kv_heads": 1,
        "tying": "output",
    },
}
SLOW = pytest.mark.slow
MIXED = {"preln-layernorm-bias", "normformer-rmsnorm", "postln", "swinv2-rotary-multi-query"}
"""Variants whose switches are all among those of other variants."""
AS_OTHERS = MIXED | {"normformer", "deepnet", "cogview", "sinkhorn"}
"""Variants that decode as others do: only norms, activations, scales or the encoder differ."""


def variants(names: Iterable[str], slow: set[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(one, marks=SLOW if one in slow else ()) for one in names]
    return pytest.mark.parametrize("variant", marked)


every_variant = variants(SWITCHES, slow=MIXED)


DEEP = {"preln", "deepnet", "palm"}
"""Variants with two layers a stack; swinv2 has seven. The others have one, which compiles faster:
layers of all variants are connected by the same loop."""


@pytest.fixture
def config(tiny: ModelConfig, variant: str) -> ModelConfig:
    depth = 2 if variant in DEEP else 1
    depths = {"encoder_depth": depth, "decoder_depth": depth}
    return dataclasses.replace(tiny, **(depths | SWITCHES[variant]))


def inputs(config: ModelConfig, rows: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text tokens, a mask with padding, and decoder inputs. NumPy compiles no programs."""
    random = np.random.default_rng(7)
    text = random.integers(0, config.text_vocab_size, (rows, config.text_length), np.int32)
    lengths = np.arange(rows)[:, None] % config.text_length + 2
    mask = np.arange(config.text_length)[None, :] < lengths
    image = random.integers(0, config.image_vocab_size, (rows, config.image_length), np.int32)
    return text, mask, image


def init(model: transformer.Transformer) -> dict:
    """Initial parameters. `remat` and `unroll` change none, so a variant's models share one
    program."""
    return first_params(dataclasses.replace(model.config, unroll=TINY.unroll, remat=TINY.remat))


def with_large_weights(params: dict) -> dict:
    """Weights so large that a wrong connection exceeds rounding errors."""
    times = lambda p: jnp.asarray(np.asarray(p) * np.float32(10 if p.ndim > 1 else 1))  # noqa: E731
    return jax.tree.map(times, params)


@every_variant
def test_later_tokens_do_not_reach_earlier_logits(config: ModelConfig) -> None:
    """Another token at a position changes the logits there and later, and no bit of earlier ones.
    Large weights reveal the smallest leak; with small ones every token matters."""
    model = transformer.build(config)
    small = init(model)
    text, mask, image = inputs(config)
    for params in (small, with_large_weights(small)):
        expected = np.asarray(full_pass(model)(params, text, mask, image))
        for place in range(config.image_length):
            other = image.copy()
            other[:, place] = (image[:, place] + 7) % config.image_vocab_size
            changed = np.asarray(full_pass(model)(params, text, mask, other)) != expected
            assert not changed[:, :place].any()
            assert params is not small or changed[:, place:].any(axis=(0, 2)).all()


@variants([name for name in SWITCHES if name != "sinkhorn"], slow=MIXED)
def test_padding_has_no_influence(config: ModelConfig) -> None:
    model = transformer.build(config)
    params = with_large_weights(init(model))
    text, mask, image = inputs(config)
    other = np.where(mask, text, (text + 5) % config.text_vocab_size)
    assert (other != text).any()
    apply = full_pass(model)
    expected = apply(params, text, mask, image)
    np.testing.assert_array_equal(apply(params, other, mask, image), expected)


@pytest.mark.parametrize("variant", ["preln", "swinv2", "sinusoidal-offset", "palm"])
def test_shorter_captions_and_pictures_are_beginnings_of_longer_ones(config: ModelConfig) -> None:
    model = transformer.build(config)
    params = with_large_weights(init(model))
    text, _, image = inputs(config)
    mask = np.tile(np.arange(6) < 4, (3, 1))
    expected = np.asarray(full_pass(model)(params, text, mask, image))[:, :5]
    found = full_pass(model)(params, text[:, :4], mask[:, :4], image[:, :5])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@variants(SWITCHES, slow=AS_OTHERS)
def test_decoding_with_a_cache_equals_the_full_pass(config: ModelConfig) -> None:
    model = transformer.build(config)
    params = with_large_weights(init(model))
    text, mask, image = inputs(config)
    expected = np.asarray(full_pass(model)(params, text, mask, image))

    @jax.jit
    def read(params: dict, text: Any, mask: Any) -> transformer.Cache:
        return model.init_cache(params, model.encode(params, text, mask), mask, 4)

    cache = read(params, text, mask)
    step = jax.jit(lambda params, *inputs: model.decoder(params)(*inputs))
    laid_out = model.lay_out(params)
    # Four positions at once; then one at a time with a larger cache.
    for index, end in ((0, 4), *((i, i + 1) for i in range(4, config.image_length))):
        cache = cache if end == 4 else cache.grown(config.image_length)
        logits, cache = step(laid_out, image[:, index:end], jnp.int32(index), cache)
        np.testing.assert_allclose(logits, expected[:, index:end], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["swinv2"])
def test_scanned_layers_of_two_kinds_equal_unrolled_ones(config: ModelConfig) -> None:
    """Swin's six layers and an odd one: two loops."""
    params = init(transformer.build(config))
    text, mask, image = inputs(config)
    expected = full_pass(transformer.build(config))(params, text, mask, image)
    scanned = transformer.build(dataclasses.replace(config, unroll=1))
    found = full_pass(scanned)(params, text, mask, image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "variant", ["preln", *(pytest.param(n, marks=SLOW) for n in ("palm", "swinv2", "deepnet"))]
)
def test_scanned_and_recomputed_layers_equal_unrolled_ones(config: ModelConfig) -> None:
    scanned = transformer.build(dataclasses.replace(config, unroll=1))
    recomputed = transformer.build(dataclasses.replace(config, remat="layer"))
    unrolled = transformer.build(config)
    params = init(unrolled)
    text, mask, image = inputs(config)

    def gradient(model: transformer.Transformer) -> dict:
        def loss(params: dict, *inputs: Any) -> jax.Array:
            return jnp.square(model.apply(params, *inputs)).mean()

        return jax.jit(jax.grad(loss))(params, text, mask, image)

    expected = gradient(unrolled)
    for model in (scanned, recomputed):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
            gradient(model),
            expected,
        )


def test_recomputing_layers_saves_memory(tiny: ModelConfig) -> None:
    deep = dataclasses.replace(tiny, dim=32, decoder_depth=8, grid_size=8)
    given = inputs(deep, rows=8)

    def temporary_bytes(config: ModelConfig) -> int:
        model = transformer.build(config)
        params = jax.eval_shape(model.init, jax.random.key(0))
        gradient = jax.grad(lambda p, *given: jnp.square(model.apply(p, *given)).mean())
        analysis = jax.jit(gradient).lower(params, *given).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    kept = temporary_bytes(dataclasses.replace(deep, unroll=1))
    assert temporary_bytes(dataclasses.replace(deep, unroll=1, remat="layer")) < kept / 2


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *((name, "bfloat16") for name in ("preln", "deepnet", "grouped-qk-norm", "sinkhorn")),
        *(("deepnet", "float16"), ("palm", "float16")),
        *(pytest.param(name, "float16", marks=SLOW) for name in ("preln", "sinkhorn")),
        pytest.param("grouped-qk-norm", "float16", marks=SLOW),
        pytest.param("palm", "bfloat16", marks=SLOW),
    ],
)
def test_half_precision_stays_near_float32(config: ModelConfig, dtype: str) -> None:
    params = init(transformer.build(config))
    text, mask, image = inputs(config)
    expected = full_pass(transformer.build(config))(params, text, mask, image)
    half = transformer.build(dataclasses.replace(config, unroll=1), dtype)
    found = full_pass(half)(params, text, mask, image)
    assert found.dtype == jnp.float32
    assert np.abs(np.asarray(found) - expected).max() < 0.1 * np.std(expected)


def test_dropout_depends_on_the_example_and_not_on_its_neighbours(tiny: ModelConfig) -> None:
    config = dataclasses.replace(
        tiny, dropout=0.2, attention_dropout=0.2, activation_dropout=0.2, unroll=1
    )
    model = transformer.build(config)
    params = init(model)
    text, mask, image = inputs(tiny)
    keys = np.array([[0, 1], [0, 2], [0, 3]], np.uint32)

    @jax.jit  # one program: all batches have three rows
    def drop(text: Any, mask: Any, image: Any, keys: Any) -> jax.Array:
        return model.apply(params, text, mask, image, jax.random.wrap_key_data(keys))

    full = np.asarray(drop(text, mask, image, keys))
    # The example is in the last row now, and its neighbours are others.
    moved = np.asarray(drop(*(x[[2, 2, 1]] for x in (text, mask, image)), keys[[2, 0, 1]]))
    np.testing.assert_allclose(full[1], moved[2], rtol=1e-5, atol=1e-6)
    assert np.abs(full - drop(text, mask, image, keys[::-1])).max() > 1e-3
    without = full_pass(transformer.build(tiny))(params, text, mask, image)
    assert np.abs(full - without).max() > 1e-3


@every_variant
def test_an_untrained_model_knows_nothing(config: ModelConfig) -> None:
    model = transformer.build(config)
    params = init(model)
    text, mask, image = inputs(config, rows=63)
    parts = [
        slice(i, i + 3) for i in range(0, 63, 3)
    ]  # the shapes of other tests, so nothing is compiled
    logits = [full_pass(model)(params, text[p], mask[p], image[p]) for p in parts]
    log_probabilities = log_softmax(np.concatenate(logits), axis=-1)
    others = np.roll(image, 1, axis=0)  # a tied model knows the token it has just read
    loss = -np.take_along_axis(log_probabilities, others[..., None], axis=-1).mean()
    assert loss == pytest.approx(np.log(config.image_vocab_size), abs=0.05)


def test_counting_parameters_needs_no_memory() -> None:
    huge = ModelConfig(dim=4096, num_heads=32, encoder_depth=32, decoder_depth=32, mlp_dim=11008)
    assert transformer.count_params(huge) > 6e9


@pytest.mark.parametrize(
    "wrong", [{"num_heads": 0}, {"decoder_depth": 0}, {"dropout": 1.5}, {"norm": "foo"}]
)
def test_impossible_sizes_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"model.{next(iter(wrong))}"):
        ModelConfig(**wrong)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="190 is not a multiple of model.num_heads 4; try dim 188"):
        ModelConfig(dim=190)

"""Properties of the sampler: cached = full pass, independent rows, guidance, top-k and top-p."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.sampling import (
    NOT_FINITE,
    Sampler,
    keep_likely,
    make_sampler,
    num_segments,
    plan_segments,
    sample_tokens,
)
from model.transformer import Transformer
from tests.tiny import TINY, first_params, full_pass

EMPTY = (np.array([[1, 0, 0, 0, 0, 0]], np.int32), np.arange(6)[None] < 1)
GREEDY = SamplingConfig(guidance_scale=1.0, temperature=0.0)
GUIDED = SamplingConfig(guidance_scale=3.0, temperature=0.0)
WINDOWED = SamplingConfig(
    guidance_scale=30.0, temperature=0.0, guidance_start=0.3, guidance_end=0.7
)
WILD = SamplingConfig(guidance_scale=2.0, temperature=1.0)


def texts(first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three captions of different lengths, which depend on `first`."""
    lengths = 2 + (first + np.arange(3)[:, None]) % 5
    tokens = np.random.default_rng(first).integers(2, 32, (3, 6), np.int32)
    return tokens, np.arange(6)[None] < lengths


SHALLOW = dataclasses.replace(TINY, encoder_depth=1, decoder_depth=1)
"""It compiles in half the time of two layers a stack, which test_row_sampling.py draws with."""
MODEL = transformer.build(SHALLOW)


@cache
def sampler(
    config: SamplingConfig,
    model: Transformer = MODEL,
    codebook_size: int | None = None,
    segments: int | None = None,
) -> Sampler:
    """One sampler for all tests, so that its program is compiled once. It has several segments, as
    for larger pictures."""
    return make_sampler(model, config, EMPTY, codebook_size, segments or 3)


def large(config: ModelConfig) -> Any:
    """Weights so large that predictions are sharp and depend on the caption."""
    times = lambda p: jnp.asarray(np.asarray(p) * np.float32(12 if p.ndim > 1 else 1))  # noqa: E731
    return jax.tree.map(times, first_params(config))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return MODEL


@pytest.fixture(scope="module")
def params() -> Any:
    return large(SHALLOW)


@pytest.fixture
def tiny() -> ModelConfig:
    return SHALLOW


def seeds(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def teacher_forced(
    model: Transformer, params: Any, text: np.ndarray, mask: np.ndarray, drawn: Any
) -> np.ndarray:
    start = np.full((len(drawn), 1), model.decoder_start_token_id, np.int32)
    inputs = np.concatenate([start, np.asarray(drawn)[:, :-1]], axis=1)
    return np.asarray(full_pass(model)(params, text, mask, inputs))


def guided_logits(
    model: Transformer, params: Any, drawn: Any, config: SamplingConfig
) -> np.ndarray:
    """The guided logits, from full passes, from which `drawn` for `texts()` must have been
    chosen."""
    empty_text, empty_mask = (np.repeat(part, 3, axis=0) for part in EMPTY)
    conditional = teacher_forced(model, params, *texts(), drawn)
    unconditional = teacher_forced(model, params, empty_text, empty_mask, drawn)
    begin, end = round(config.guidance_start * 9), round(config.guidance_end * 9)
    inside = ((np.arange(9) >= begin) & (np.arange(9) < end))[None, :, None]
    scale = np.where(inside, np.float32(config.guidance_scale), np.float32(1))
    return unconditional + scale * (conditional - unconditional)


def test_greedy_tokens_are_the_argmax_of_teacher_forced_logits(
    model: Transformer, params: Any
) -> None:
    text, mask = texts()
    drawn = sampler(GREEDY)(params, text, mask, seeds(0, 1, 2))
    logits = teacher_forced(model, params, text, mask, drawn)
    assert drawn.shape == (3, 9)
    assert (drawn == logits.argmax(-1)).all()


def test_guidance_leads_away_from_the_empty_caption(model: Transformer, params: Any) -> None:
    drawn = sampler(GUIDED)(params, *texts(), seeds(0, 1, 2))
    assert (drawn == guided_logits(model, params, drawn, GUIDED).argmax(-1)).all()
    assert (drawn != teacher_forced(model, params, *texts(), drawn).argmax(-1)).any()


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 3), (2.0, 6)])
def test_only_guidance_doubles_the_batch(
    tiny: ModelConfig, params: Any, scale: float, rows: int
) -> None:
    seen: set[int] = set()

    class Watched(Transformer):
        def decoder(self, params: Any) -> Any:
            decode = super().decoder(params)

            def watched(tokens: jax.Array, *rest: Any) -> Any:
                seen.add(len(tokens))
                return decode(tokens, *rest)

            return watched

    config = SamplingConfig(guidance_scale=scale)
    sample = make_sampler(Watched(tiny), config, EMPTY, segments=4)
    jax.eval_shape(sample, params, *texts(), seeds(0, 1, 2))
    assert seen == {rows}


def test_the_text_is_encoded_once(tiny: ModelConfig, params: Any) -> None:
    calls: list[str] = []

    class Watched(Transformer):
        def encode(self, *inputs: Any) -> Any:
            calls.append("encode")
            return super().encode(*inputs)

        def init_cache(self, *inputs: Any) -> Any:
            calls.append("init_cache")
            return super().init_cache(*inputs)

    sample = make_sampler(Watched(tiny), WILD, EMPTY, segments=4)
    jax.eval_shape(sample, params, *texts(), seeds(0, 1, 2))
    assert calls == ["encode", "init_cache"]


def test_a_row_does_not_depend_on_its_neighbours(model: Transformer, params: Any) -> None:
    sample = sampler(WILD)
    text, mask = texts()
    here = np.asarray(sample(params, text, mask, seeds(7, 8, 9)))
    for row in range(3):
        place = 2 - row
        other_text, other_mask = texts(first=5)
        numbers = seeds(4, 5, 6)
        other_text[place], other_mask[place], numbers[place] = text[row], mask[row], 7 + row
        there = np.asarray(sample(params, other_text, other_mask, numbers))
        assert (there[place] == here[row]).all()


def test_in_float32_the_batch_size_changes_no_picture(model: Transformer, params: Any) -> None:
    sample, count = sampler(WILD), 128
    text, mask = (np.tile(part, (43, 1))[:count] for part in texts())
    numbers = np.arange(count, dtype=np.uint32)
    drawn = {
        rows: np.concatenate(
            [
                sample(params, text[i : i + rows], mask[i : i + rows], numbers[i : i + rows])
                for i in range(0, count, rows)
            ]
        )
        for rows in (1, 64)
    }
    assert (drawn[1] == drawn[64]).all(axis=1).mean() >= 0.999


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_in_half_precision_neighbours_change_nothing(
    tiny: ModelConfig, params: Any, dtype: str
) -> None:
    sample = make_sampler(transformer.build(tiny, dtype), WILD, EMPTY, segments=2)
    text, mask = (np.tile(part, (43, 1))[:128] for part in texts())
    numbers = np.arange(128, dtype=np.uint32)
    order = np.random.default_rng(0).permutation(128)
    straight = sample(params, text, mask, numbers)
    assert (sample(params, text[order], mask[order], numbers[order]) == straight[order]).all()


def test_a_seed_draws_the_same_picture_and_another_seed_another(
    model: Transformer, params: Any
) -> None:
    sample = sampler(WILD)
    text, mask = (np.repeat(part[:1], 3, axis=0) for part in texts())
    first, second, same = np.asarray(sample(params, text, mask, seeds(3, 4, 3)))
    assert (first == same).all()
    assert (first != second).any()


@pytest.mark.parametrize("segments", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_segments_do_not_change_what_is_drawn(
    model: Transformer, params: Any, segments: int
) -> None:
    text, mask = texts()
    drawn, expected = (
        sampler(WILD, segments=s)(params, text, mask, seeds(0, 1, 2)) for s in (segments, None)
    )
    assert (drawn == expected).all()


def test_laid_out_parameters_draw_the_same(model: Transformer, params: Any) -> None:
    sample = sampler(WILD)
    inputs = *texts(), seeds(0, 1, 2)
    laid_out, drawn = model.lay_out(params), sample(params, *inputs)
    assert (sample(laid_out, *inputs) == drawn).all()
    np.testing.assert_allclose(
        teacher_forced(model, laid_out, *texts(), drawn),
        teacher_forced(model, params, *texts(), drawn),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("switches", [{}, {"use_bias": True, "num_kv_heads": 1, "use_glu": False}])
def test_joined_products_draw_the_same(tiny: ModelConfig, switches: dict) -> None:
    model = transformer.build(dataclasses.replace(tiny, **switches))
    params = large(model.config)
    joined, inputs = model.lay_out(params, rows=6), (*texts(), seeds(0, 1, 2))
    attention = joined["decoder"]["layer0"]["attention"]
    assert "joined" in attention
    assert not {"q", "k", "v"} & set(attention)
    sample = sampler(WILD, model)
    assert (sample(joined, *inputs) == sample(params, *inputs)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_laid_out_weights_are_held_once(tiny: ModelConfig, dtype: str) -> None:
    model = transformer.build(dataclasses.replace(tiny, dim=128, mlp_dim=512), dtype)
    params = jax.eval_shape(lambda key: model.lay_out(model.init(key)), jax.random.key(0))
    sample = jax.jit(make_sampler(model, GREEDY, EMPTY, segments=4))
    analysis = sample.lower(params, *texts(), seeds(0, 1, 2)).compile().memory_analysis()
    assert analysis is not None
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    assert analysis.temp_size_in_bytes < 0.15 * weights


BEGUN = [(WINDOWED, 4), (WINDOWED, 9), (WILD, 1), (GREEDY, 7)]
OTHERS = [
    pytest.param(config, given, marks=pytest.mark.slow)
    for config in (GUIDED, WILD, GREEDY, WINDOWED)
    for given in (1, 4, 7, 9)
    if (config, given) not in BEGUN
]


@pytest.mark.parametrize(("config", "given"), [*BEGUN, *OTHERS])
def test_a_picture_is_completed_as_it_was_begun(
    model: Transformer, params: Any, config: SamplingConfig, given: int
) -> None:
    sample = sampler(config)
    inputs = params, *texts(), seeds(0, 1, 2)
    whole = np.asarray(sample(*inputs))
    assert (sample(*inputs, whole[:, :given]) == whole).all()
    other = (whole[:, :given] + 1) % 20
    completed = np.asarray(sample(*inputs, other))
    assert (completed[:, :given] == other).all()
    if config.temperature == 0 and given < 9:
        wanted = guided_logits(model, params, completed, config).argmax(-1)
        assert (completed[:, given:] == wanted[:, given:]).all()


def test_guidance_holds_inside_its_window_only(model: Transformer, params: Any) -> None:
    drawn = sampler(WINDOWED)(params, *texts(), seeds(0, 1, 2))
    assert (drawn == guided_logits(model, params, drawn, WINDOWED).argmax(-1)).all()
    everywhere = dataclasses.replace(WINDOWED, guidance_start=0.0, guidance_end=1.0)
    assert (drawn != guided_logits(model, params, drawn, everywhere).argmax(-1)).any()


def test_behind_the_window_the_empty_caption_is_not_decoded() -> None:
    def rows(**switches: Any) -> list[bool]:
        return [part.doubled for part in plan_segments(100, SamplingConfig(**switches), 4)]

    assert rows(guidance_end=0.5) == [True, True, False, False]
    assert rows(guidance_start=0.5) == [True] * 4
    assert rows(guidance_scale=1.0) == [False] * 4
    assert rows(guidance_start=0.5, guidance_end=0.5) == [False] * 4


@pytest.mark.parametrize("start", [0, pytest.param(7, marks=pytest.mark.slow), 19])
def test_the_start_token_is_never_drawn(tiny: ModelConfig, start: int) -> None:
    model = transformer.build(dataclasses.replace(tiny, decoder_start_token_id=start))
    params = first_params(model.config)
    flat = SamplingConfig(temperature=1000.0)  # every class is about as likely as any other
    text, mask = (np.tile(part, (100, 1)) for part in texts())
    sample = make_sampler(model, flat, EMPTY, segments=2)
    drawn = sample(params, text, mask, np.arange(300, dtype=np.uint32))
    assert set(np.unique(drawn)) == set(range(20)) - {start}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_where_the_model_gives_no_finite_number_the_token_says_so(
    model: Transformer, params: Any, value: float
) -> None:
    whole = np.asarray(sampler(WILD)(params, *texts(), seeds(1, 2, 3)))
    assert (whole != NOT_FINITE).all()
    broken = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) * np.float32(value)), params)
    found = np.asarray(sampler(WILD)(broken, *texts(), seeds(1, 2, 3)))
    assert (found == NOT_FINITE).all()


@pytest.mark.parametrize("temperature", [1e-31, 1e-42, 1e-45])
def test_temperatures_that_float32_cannot_divide_by_are_greedy(temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (4, 40)).astype(np.float32)
    noise = random.gumbel(size=(4, 40)).astype(np.float32)
    config = SamplingConfig(temperature=temperature)
    drawn = sample_tokens(jnp.asarray(logits), jnp.asarray(noise), config)
    np.testing.assert_array_equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize("scale", [1e38, -1e38, 10_001.0])
def test_guidance_that_overflows_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="guidance_scale .* is beyond ±10000"):
        SamplingConfig(guidance_scale=scale)


def test_longer_pictures_get_more_segments() -> None:
    assert [num_segments(n) for n in (1, 9, 16, 64, 256, 1024)] == [1, 1, 4, 4, 8, 8]


def test_guidance_needs_the_empty_caption(tiny: ModelConfig, params: Any) -> None:
    with pytest.raises(ValueError, match="guidance_scale 3.0 leads away from the empty caption"):
        make_sampler(transformer.build(tiny), GUIDED)
    drawn = make_sampler(transformer.build(tiny), GREEDY, segments=2)(
        params, *texts(), seeds(0, 1, 2)
    )
    assert (drawn == sampler(GREEDY)(params, *texts(), seeds(0, 1, 2))).all()


def test_only_codes_of_the_vqgan_are_drawn(model: Transformer, params: Any) -> None:
    sample = make_sampler(model, WILD, EMPTY, codebook_size=4)
    drawn = sample(params, *texts(), seeds(0, 1, 2))
    assert drawn.max() < 4
    with pytest.raises(ValueError, match="codebook of 21 is larger .* 20"):
        make_sampler(model, WILD, EMPTY, codebook_size=21)


def reference_keep(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Which classes top-k and then top-p keep, computed row by row."""
    kept = np.full_like(logits, -np.inf)
    for row, kept_row in zip(logits, kept, strict=True):
        likely = np.argsort(-row)[: top_k or None]
        shares = np.exp(row[likely] - row.max())
        reached = np.cumsum(shares / shares.sum())
        count = int(np.argmax(reached >= top_p)) + 1 if reached[-1] >= top_p else len(likely)
        kept_row[likely[:count]] = row[likely[:count]]
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 5, 20, 100])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 1.0])
def test_top_k_and_top_p_keep_what_numpy_keeps(top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (8, 20)).astype(np.float32)
    kept = keep_likely(jnp.asarray(logits), top_k, top_p)
    np.testing.assert_array_equal(kept, reference_keep(logits, min(top_k, 20), top_p))


def test_tokens_as_likely_as_the_last_one_kept_stay() -> None:
    kept = keep_likely(jnp.array([[2.0, 1.0, 1.0, 0.0]]), top_k=2, top_p=1.0)
    assert jnp.isfinite(kept)[0].tolist() == [True, True, True, False]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    logits, count = np.array([1.0, 0.0, 2.0, -1.0], np.float32), 20_000
    noise = np.random.default_rng(0).gumbel(size=(count, 4)).astype(np.float32)
    config = SamplingConfig(temperature=temperature, top_k=3)
    drawn = sample_tokens(jnp.asarray(np.tile(logits, (count, 1))), jnp.asarray(noise), config)
    kept = np.exp([*logits[:3] / temperature, -np.inf])
    shares = np.bincount(drawn, minlength=4) / count
    np.testing.assert_allclose(shares, kept / kept.sum(), atol=0.015)


def test_the_sampler_is_one_compiled_program(model: Transformer, params: Any) -> None:
    sample: Any = sampler(WILD)
    sample(params, *texts(), seeds(0, 1, 2))
    programs = sample._cache_size()
    for first in range(1, 4):
        sample(params, *texts(first=first), seeds(first, 1, 2))
    assert sample._cache_size() == programs > 0

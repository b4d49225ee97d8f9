"""Drawing row by row gives the same tokens as drawing at once; other settings compile nothing."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.config import SamplingConfig
from model.row_sampling import RowSampler
from model.sampling import make_sampler
from model.transformer import Transformer
from tests.tiny import TINY

TEXT = (np.arange(2, 14, dtype=np.int32).reshape(2, 6), np.arange(6)[None] < [[3], [6]])
EMPTY = (np.array([[1, 0, 0, 0, 0, 0]], np.int32), np.arange(6)[None] < 1)
OTHER = (np.array([[1, 9, 8, 0, 0, 0]], np.int32), np.arange(6)[None] < 3)
SEEDS = np.array([3, 4], np.uint32)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return transformer.build(TINY)


@pytest.fixture(scope="module")
def params(model: Transformer) -> Any:
    drawn = model.init(jax.random.key(0))
    return model.lay_out(jax.tree.map(lambda p: p * 12 if p.ndim > 1 else p, drawn))


@pytest.mark.parametrize(
    ("empty", "scale", "temperature"), [(EMPTY, 1.0, 0.0), (OTHER, 3.0, 0.0), (OTHER, 2.0, 1.0)]
)
def test_rows_end_in_what_is_drawn_at_once(
    model: Transformer, params: Any, empty: Any, scale: float, temperature: float
) -> None:
    config = SamplingConfig(guidance_start=0.3, guidance_end=0.8, top_k=7)
    once = replace(config, guidance_scale=scale, temperature=temperature)
    whole = make_sampler(model, once, empty, 20)(params, *TEXT, SEEDS)
    sampler = RowSampler(model, config, 20)
    stages = list(sampler.rows(params, TEXT, empty, SEEDS, scale, temperature))
    np.testing.assert_array_equal(stages[-1], whole)
    for row, stage in enumerate(stages, 1):
        np.testing.assert_array_equal(stage[:, : 3 * row], whole[:, : 3 * row])
        assert not stage[:, 3 * row :].any()


def test_other_knobs_and_texts_compile_nothing(params: Any) -> None:
    traced: list[str] = []

    class Watched(Transformer):
        def encode(self, *inputs: Any) -> Any:
            traced.append("encode")
            return super().encode(*inputs)

        def decoder(self, params: Any) -> Any:
            traced.append("decoder")
            return super().decoder(params)

    sampler = RowSampler(Watched(TINY), SamplingConfig(), 20)
    for scale, temperature, empty in ((1.0, 1.0, EMPTY), (2.0, 0.5, OTHER), (3.0, 0.0, EMPTY)):
        list(sampler.rows(params, TEXT, empty, SEEDS, scale, temperature))
    assert traced == ["encode", "decoder"]


def test_kept_tokens_stand(model: Transformer, params: Any) -> None:
    kept = np.full((2, 9), -1)
    kept[:, [0, 4, 8]] = [[5, 6, 7], [8, 9, 10]]
    config = SamplingConfig(guidance_scale=2.0, temperature=1.0)
    *_, last = RowSampler(model, config, 20).rows(params, TEXT, EMPTY, SEEDS, 2.0, 1.0, kept)
    whole = make_sampler(model, config, EMPTY, 20)(params, *TEXT, SEEDS, None, jnp.asarray(kept))
    np.testing.assert_array_equal(last, whole)
    np.testing.assert_array_equal(last[:, [0, 4, 8]], kept[:, [0, 4, 8]])


def test_only_codes_of_the_vqgan_are_drawn(model: Transformer, params: Any) -> None:
    sampler = RowSampler(model, SamplingConfig(), 5)
    for seed in range(4):
        *_, last = sampler.rows(params, TEXT, EMPTY, SEEDS + 10 * seed, 1.0, 5.0)
        assert last.max() < 5
    with pytest.raises(ValueError, match="larger than the model's image_vocab_size"):
        list(RowSampler(model, SamplingConfig(), 99).rows(params, TEXT, EMPTY, SEEDS, 1.0, 1.0))

"""Sampling of image tokens row by row, so that the web page can show each row when it is ready.

It samples the same tokens as model/sampling.py, more slowly: the cache has its full length from the
start, and the unconditional rows are decoded to the end. In return, guidance, temperature and the
negative text are arguments of its programs: another value needs no compilation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, UInt32

from model.config import SamplingConfig
from model.layers import first_largest
from model.sampling import (
    COLDEST,
    Segment,
    SoFar,
    allowed_classes,
    guided_positions,
    keep_likely,
    make_noise,
    only_finite,
    read_text,
)
from model.transformer import Cache, Params, Transformer

Text = tuple[Int[np.ndarray, "..."], Bool[np.ndarray, "..."]]
"""Tokens and mask of captions, [b, t] each."""


@dataclass(frozen=True)
class RowSampler:
    """Samples pictures row by row. guidance_start, guidance_end, top_k and top_p are `config`'s;
    scale and temperature are arguments of each call. Only the first `codebook_size` classes are
    sampled."""

    transformer: Transformer
    config: SamplingConfig
    codebook_size: int

    def rows(
        self,
        params: Params,
        text: Text,
        empty_text: Text,
        seeds: UInt32[np.ndarray, " b"],
        guidance_scale: float,
        temperature: float,
        kept_tokens: Int[np.ndarray, "b n"] | None = None,
    ) -> Iterator[Int32[np.ndarray, "b n"]]:
        """Yield the image tokens after each row; 0 where none are sampled yet. `text` holds tokens
        and mask of each caption, `empty_text` of the text from which guidance leads away.
        Non-negative `kept_tokens` replace sampled ones."""
        length, width = self.transformer.config.image_length, self.transformer.config.grid_size
        start = np.full((len(seeds), 1), self.transformer.decoder_start_token_id, np.int32)
        drawn = jnp.asarray(np.pad(start, ((0, 0), (0, length))))
        if kept_tokens is None:
            kept_tokens = np.full((len(seeds), length), -1)
        cache = _read(self, params, text, empty_text)
        knobs = np.array([guidance_scale, temperature], np.float32)
        for first in range(0, length, width):
            kept = jnp.asarray(kept_tokens[:, first : first + width], jnp.int32)
            drawn, cache = _draw_row(self, params, seeds, (drawn, cache), first, knobs, kept)
            yield np.asarray(drawn[:, 1:])


@partial(jax.jit, static_argnums=0)
def _read(
    sampler: RowSampler, params: Params, text: tuple[Array, Array], empty_text: tuple[Array, Array]
) -> Cache:
    """A cache with room for all tokens: first the captions' rows, then the empty text's."""
    length = sampler.transformer.config.image_length
    return read_text(sampler.transformer, params, *text, empty_text, length)


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def _draw_row(
    sampler: RowSampler,
    params: Params,
    seeds: UInt32[Array, " b"],
    so_far: SoFar,
    first: Int[Array, ""],
    knobs: Float[Array, " 2"],
    kept: Int[Array, "b w"],
) -> SoFar:
    """(tokens, cache) after one row, which begins at position `first` and is as long as `kept`.
    `knobs` holds guidance scale and temperature."""
    config, transformer = sampler.config, sampler.transformer
    decode = transformer.decoder(transformer.lay_out(params))
    keys = jax.vmap(jax.random.key)(seeds)
    allowed = allowed_classes(transformer, sampler.codebook_size)
    row = Segment(0, kept.shape[1], 1.0, True)
    noise = make_noise(keys, row, len(allowed), replace(config, temperature=1.0), first)
    assert noise is not None  # at this temperature
    begin, stop = guided_positions(transformer.config.image_length, config)

    def step(index: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        drawn, cache = carry
        tokens = jax.lax.dynamic_slice_in_dim(drawn, index, 1, axis=1)
        logits, cache = decode(jnp.tile(tokens, (2, 1)), index, cache)
        scale = jnp.where((begin <= index) & (index < stop), knobs[0], 1.0)
        logits = _guide(logits[:, 0], scale)[:, : len(allowed)]
        logits = jnp.where(allowed[None], logits, -jnp.inf)
        tokens = _choose(logits, noise[index - first], knobs[1], config)
        kept_here = jax.lax.dynamic_index_in_dim(kept, index - first, axis=1, keepdims=False)
        tokens = jnp.where(kept_here >= 0, kept_here, tokens)
        return jax.lax.dynamic_update_index_in_dim(drawn, tokens, index + 1, axis=1), cache

    return jax.lax.fori_loop(first, first + kept.shape[1], step, so_far)


def _guide(logits: Float[Array, "b2 v"], scale: Float[Array, ""]) -> Float[Array, "b v"]:
    """sampling.guide with a scale that is an argument of the program."""
    conditional, unconditional = jnp.split(logits, 2)
    guided = unconditional + scale * (conditional - unconditional)
    return jnp.where(scale == 1, conditional, guided)


def _choose(
    logits: Float[Array, "b v"],
    noise: Float[Array, "b v"],
    temperature: Float[Array, ""],
    config: SamplingConfig,
) -> Int32[Array, " b"]:
    """sampling.sample_tokens with a temperature that is an argument of the program."""
    warm = keep_likely(logits / jnp.maximum(temperature, COLDEST), config.top_k, config.top_p)
    is_cold = temperature < COLDEST
    return only_finite(first_largest(jnp.where(is_cold, logits, warm + noise)), logits)

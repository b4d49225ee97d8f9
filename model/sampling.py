"""Draw image tokens for captions: guidance, temperature, top-k, top-p, one cached step a token.

The decode loop is cut into static segments, each attending only over the part of the cache that
is filled by its end. Guidance: Ho & Salimans 2022, arXiv:2207.12598; nucleus: Holtzman et al. 2019,
arXiv:1904.09751.
"""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key, UInt32

from model.config import SamplingConfig
from model.layers import fold_keys
from model.transformer import Cache, Params, Transformer

EmptyText = tuple[Int[np.ndarray, "1 t"], Bool[np.ndarray, "1 t"]]
Sampler = Callable[
    [Params, Int[Array, "b t"], Bool[Array, "b t"], UInt32[Array, "b"]], Int32[Array, "b n"]
]


def num_segments(image_length: int) -> int:
    """Parts of the decode loop: with 4, a step reads 5/8 of the cache on average, with 8, 9/16.
    Each part adds to the compile time, so short pictures get fewer."""
    return min(image_length, max(4, min(8, image_length // 32)))


def make_sampler(
    transformer: Transformer,
    config: SamplingConfig,
    empty_text: EmptyText,
    codebook_size: int | None = None,
    segments: int | None = None,
) -> Sampler:
    """The jitted function (params, text_tokens, text_mask, seeds) → image_tokens.

    Row i is drawn from seeds[i] alone: whatever stands beside it in the batch, it stays the same.
    `empty_text` is the encoded empty caption, which guidance leads away from. Only the first
    `codebook_size` classes are drawn; the VQGAN knows no others.
    """
    length = transformer.config.image_length
    vocab_size = transformer.config.image_vocab_size
    codebook_size = codebook_size or vocab_size
    if codebook_size > vocab_size:
        raise ValueError(
            f"the VQGAN's codebook of {codebook_size} is larger than the model's image_vocab_size "
            f"{vocab_size}; use the VQGAN that the model was trained with"
        )
    guided = config.guidance_scale != 1
    segments = segments or num_segments(length)
    bounds = [length * i // segments for i in range(segments + 1)]

    def sample(
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        seeds: UInt32[Array, "b"],
    ) -> Int32[Array, "b n"]:
        keys = jax.vmap(jax.random.key)(seeds)
        decode = transformer.decoder(params)
        cache = _read_text(transformer, params, text_tokens, text_mask, empty_text, guided)

        def draw_next(
            index: Array, carry: tuple[Int32[Array, "b m"], Cache], end: int
        ) -> tuple[Int32[Array, "b m"], Cache]:
            drawn, cache = carry
            tokens = jax.lax.dynamic_index_in_dim(drawn, index, axis=1, keepdims=False)
            tokens = jnp.tile(tokens, 2) if guided else tokens
            logits, cache = decode(tokens, index, cache, end)
            logits = _guide(logits, config.guidance_scale) if guided else logits
            tokens = sample_tokens(logits[:, :codebook_size], fold_keys(keys, index), config)
            return jax.lax.dynamic_update_index_in_dim(drawn, tokens, index + 1, axis=1), cache

        drawn = jnp.full((len(seeds), length + 1), transformer.decoder_start_token_id, jnp.int32)
        for start, end in pairwise(bounds):
            drawn, cache = jax.lax.fori_loop(
                start,
                end,
                lambda index, carry, end=end: draw_next(index, carry, end),
                (drawn, cache),
            )
        return drawn[:, 1:]

    return jax.jit(sample)


def sample_tokens(
    logits: Float[Array, "b v"], keys: Key[Array, "b"], config: SamplingConfig
) -> Int32[Array, "b"]:
    """One token per row: the likeliest at temperature 0, else drawn with that row's key."""
    if config.temperature == 0:
        return logits.argmax(axis=-1).astype(jnp.int32)
    logits = keep_likely(logits / config.temperature, config.top_k, config.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def keep_likely(logits: Float[Array, "b v"], top_k: int, top_p: float) -> Float[Array, "b v"]:
    """−∞ for all but the top_k likeliest tokens (0: all), and of those for all but the fewest whose
    probabilities, scaled to sum to one, reach top_p. Tokens as likely as the last one kept stay."""
    vocab_size = logits.shape[-1]
    if not 0 < top_k < vocab_size and top_p >= 1:
        return logits
    falling, _ = jax.lax.top_k(logits, top_k if 0 < top_k < vocab_size else vocab_size)
    probabilities = jax.nn.softmax(falling, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest token always stays, whatever rounding makes of the sums.
    needed = (before < top_p).at[:, 0].set(True) if top_p < 1 else jnp.ones(falling.shape, bool)
    least = jnp.where(needed, falling, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def _read_text(
    transformer: Transformer,
    params: Params,
    text_tokens: Int[Array, "b t"],
    text_mask: Bool[Array, "b t"],
    empty_text: EmptyText,
    guided: bool,
) -> Cache:
    """The cache with the captions read, once. Guided: rows b to 2b have read the empty one."""
    rows = jnp.arange(len(text_tokens))
    if guided:
        text_tokens = jnp.concatenate([text_tokens, empty_text[0]])
        text_mask = jnp.concatenate([text_mask, empty_text[1]])
        rows = jnp.concatenate([rows, jnp.full_like(rows, len(rows))])
    states = transformer.encode(params, text_tokens, text_mask)
    length = transformer.config.image_length
    return transformer.init_cache(params, states[rows], text_mask[rows], length)


def _guide(logits: Float[Array, "b2 v"], scale: float) -> Float[Array, "b v"]:
    """Lead the conditional logits (first half) away from the unconditional ones (second half)."""
    conditional, unconditional = jnp.split(logits, 2)
    return unconditional + scale * (conditional - unconditional)

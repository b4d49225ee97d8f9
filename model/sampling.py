"""Sampling of image tokens for captions: guidance, temperature, top-k, top-p, with a key/value
cache.

The decoding loop is split into segments. The cache grows from segment to segment, so that early
steps attend over a short cache. Guidance: Ho & Salimans 2022, arXiv:2207.12598; nucleus sampling
(top-p): Holtzman et al. 2019, arXiv:1904.09751.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key, UInt32

from model.config import ModelConfig, SamplingConfig
from model.layers import first_largest, fold_keys
from model.transformer import Cache, DecodeStep, Params, Transformer, build

NOT_FINITE = -1
"""The token that is returned if the largest logit is NaN or infinite."""
COLDEST = 1e-30
"""Temperature below which sampling is greedy, because float32 would overflow."""
Choose = Callable[[Array, Array | None, Array], Array]
"""(logits [b, c], noise [b, v] or None, position) → tokens [b]."""
EmptyText = tuple[Int[np.ndarray, "1 t"], Bool[np.ndarray, "1 t"]]
Sampler = Callable[..., Int32[Array, "b n"]]
"""(params, text_tokens [b, t], text_mask [b, t], seeds [b], first_tokens [b, m] or None,
kept_tokens [b, n] or None) → image_tokens [b, n]."""


def num_segments(image_length: int) -> int:
    """The number of segments: with 4, a step reads 5/8 of the full cache on average; with 8, 9/16.
    Each segment adds to the compile time, so short pictures get fewer, and the shortest one."""
    return 1 if image_length < 16 else max(4, min(8, image_length // 32))


@dataclass(frozen=True)
class Segment:
    """Positions start … end − 1, sampled by one loop with a cache of `end` positions."""

    start: int
    end: int
    guidance_scale: float
    doubled: bool
    """True if the unconditional rows are decoded as well, for guidance here or later."""


def plan_segments(
    image_length: int, config: SamplingConfig, count: int, first: int = 0
) -> list[Segment]:
    """The segments from position `first` on: `count` for a whole picture, and more where guidance
    begins or ends inside one."""
    begin, stop = (
        round(share * image_length) for share in (config.guidance_start, config.guidance_end)
    )
    if config.guidance_scale == 1:
        begin = stop = 0
    cuts = {image_length * i // count for i in range(count + 1)} | {begin, stop}
    bounds = [first, *sorted(cut for cut in cuts if cut > first)]
    return [
        Segment(
            a, b, config.guidance_scale if begin <= a < stop else 1.0, a < stop and begin < stop
        )
        for a, b in pairwise(bounds)
    ]


def make_sampler(
    model: Transformer | ModelConfig,
    config: SamplingConfig,
    empty_text: EmptyText | None = None,
    codebook_size: int | None = None,
    segments: int | None = None,
) -> Sampler:
    """A jitted function (params, text_tokens, text_mask, seeds, first_tokens=None,
    kept_tokens=None) → image_tokens [b, n]. A token is NOT_FINITE if the model returns NaN.

    Row i depends only on seeds[i] and its own caption, not on other rows. `params` may be stacked,
    or in decoding layout (`Transformer.lay_out`), which saves a copy per call. `first_tokens`
    [b, m] are the given first tokens of each picture. Non-negative `kept_tokens` [b, n] replace
    sampled ones, and later tokens depend on them.

    `empty_text` is the encoded empty caption, from which guidance leads away. Only the first
    `codebook_size` classes are sampled, because the VQGAN has no others. Without `codebook_size`
    every class but the start token may be sampled, an end token included.
    """
    transformer = build(model) if isinstance(model, ModelConfig) else model
    if empty_text is None and config.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale {config.guidance_scale} leads away from the empty caption: give it as "
            "empty_text, or take guidance_scale 1"
        )
    length, start_token = transformer.config.image_length, transformer.decoder_start_token_id
    allowed = np.arange(num_drawable(transformer, codebook_size)) != start_token
    count = segments or num_segments(length)

    @jax.jit
    def sample(
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        seeds: UInt32[Array, " b"],
        first_tokens: Int[Array, "b m"] | None = None,
        kept_tokens: Int[Array, "b n"] | None = None,
    ) -> Int32[Array, "b n"]:
        keys = jax.vmap(jax.random.key)(seeds)
        prefix = 0 if first_tokens is None else first_tokens.shape[1]
        plan = plan_segments(length, config, count, prefix)
        doubled = bool(plan) and plan[0].doubled
        params = transformer.lay_out(params)
        decode = transformer.decoder(params)
        text = text_tokens, text_mask
        cache = read_text(transformer, params, *text, empty_text, doubled, prefix)
        drawn = jnp.full((len(seeds), length + 1), start_token, jnp.int32)
        if first_tokens is not None and prefix:
            drawn = drawn.at[:, 1 : prefix + 1].set(first_tokens)
            before = drawn[:, :prefix]
            _, cache = decode(jnp.tile(before, (1 + doubled, 1)), 0, cache)
        choose = _make_choice(allowed, config, kept_tokens)
        for segment in plan:
            if doubled and not segment.doubled:  # guidance is over: drop the unconditional rows
                cache = jax.tree.map(lambda leaf: leaf[: len(seeds)], cache)
            noise = make_noise(keys, segment, len(allowed), config)
            drawn, cache = _draw_segment(decode, segment, drawn, cache, noise, choose)
        return drawn[:, 1:]

    return sample


def _make_choice(
    allowed: Bool[np.ndarray, " v"], config: SamplingConfig, kept: Int[Array, "b n"] | None
) -> Choose:
    """A function (logits, noise, position) → tokens. It samples `allowed` classes, which are the
    first ones of the head; `kept` tokens replace sampled ones."""

    def choose(
        logits: Float[Array, "b c"], noise: Float[Array, "b v"] | None, index: Array
    ) -> Int32[Array, " b"]:
        logits = logits[:, : len(allowed)]
        if not allowed.all():
            logits = jnp.where(allowed[None], logits, -jnp.inf)
        tokens = sample_tokens(logits, noise, config)
        is_finite = jnp.isfinite(logits.max(axis=-1))  # with a NaN among them the max is NaN
        tokens = jnp.where(is_finite, tokens, NOT_FINITE)
        return tokens if kept is None else jnp.where(kept[:, index] >= 0, kept[:, index], tokens)

    return choose


def _draw_segment(
    decode: DecodeStep,
    segment: Segment,
    drawn: Int32[Array, "b m"],
    cache: Cache,
    noise: Float[Array, "q b v"] | None,
    choose: Choose,
) -> tuple[Int32[Array, "b m"], Cache]:
    """(`drawn` with the tokens of this segment, the cache after them). `drawn` begins with the
    start token."""

    def step(
        index: Array, carry: tuple[Int32[Array, "b m"], Cache]
    ) -> tuple[Int32[Array, "b m"], Cache]:
        drawn, cache = carry
        tokens = jax.lax.dynamic_slice_in_dim(drawn, index, 1, axis=1)
        logits, cache = decode(jnp.tile(tokens, (1 + segment.doubled, 1)), index, cache)
        logits = guide(logits[:, 0], segment.guidance_scale) if segment.doubled else logits[:, 0]
        tokens = choose(logits, None if noise is None else noise[index - segment.start], index)
        return jax.lax.dynamic_update_index_in_dim(drawn, tokens, index + 1, axis=1), cache

    return jax.lax.fori_loop(segment.start, segment.end, step, (drawn, cache.grown(segment.end)))


def num_codes(transformer: Transformer) -> int:
    """The number of classes that are codes of a VQGAN. In DALL·E mini's models the last class is
    the start token, not a code."""
    classes, start = transformer.config.image_vocab_size, transformer.decoder_start_token_id
    return start if start == classes - 1 else classes


def num_drawable(transformer: Transformer, codebook_size: int | None) -> int:
    """The number of classes that may be sampled, from the first on. Raises ValueError if the
    codebook is larger than the model's head."""
    codes = num_codes(transformer)
    if codebook_size is not None and codebook_size > codes:
        raise ValueError(
            f"the VQGAN's codebook of {codebook_size} is larger than the model's image_vocab_size "
            f"{codes}; use the VQGAN that the model was trained with"
        )
    return codebook_size or codes


def make_noise(
    keys: Key[Array, " b"],
    segment: Segment,
    classes: int,
    config: SamplingConfig,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "q b v"] | None:
    """Gumbel noise for a segment's logits, a function of key and position; None if sampling is
    greedy. Positions count from `first`. It is computed before the loop: inside it, its many small
    operations would take longer than a decoding step."""
    if config.temperature < COLDEST:
        return None

    def gumbel(key: Key[Array, ""]) -> Float[Array, " v"]:
        return jax.random.gumbel(key, (classes,))

    positions = first + jnp.arange(segment.start, segment.end)
    return jax.vmap(lambda position: jax.vmap(gumbel)(fold_keys(keys, position)))(positions)


def sample_tokens(
    logits: Float[Array, "b v"], noise: Float[Array, "b v"] | None, config: SamplingConfig
) -> Int32[Array, " b"]:
    """One token per row: the likeliest, or with Gumbel noise a sample of the distribution."""
    if noise is None or config.temperature < COLDEST:
        return first_largest(logits)
    logits = keep_likely(logits / config.temperature, config.top_k, config.top_p)
    return first_largest(logits + noise)


def keep_likely(logits: Float[Array, "b v"], top_k: int, top_p: float) -> Float[Array, "b v"]:
    """The logits, −∞ outside of the top_k likeliest tokens (0 = all). Of these, only the fewest
    whose renormalised probabilities reach top_p stay. Tokens as likely as the last kept one stay,
    too."""
    vocab_size = logits.shape[-1]
    if not 0 < top_k < vocab_size and top_p >= 1:
        return logits
    falling, _ = jax.lax.top_k(logits, top_k if 0 < top_k < vocab_size else vocab_size)
    probabilities = jax.nn.softmax(falling, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest token stays, however the sums are rounded.
    needed = (before < top_p).at[:, 0].set(True) if top_p < 1 else jnp.ones(falling.shape, bool)
    least = jnp.where(needed, falling, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def read_text(
    transformer: Transformer,
    params: Params,
    text_tokens: Int[Array, "b t"],
    text_mask: Bool[Array, "b t"],
    empty_text: EmptyText | tuple[Array, Array] | None,
    guided: bool,
    length: int,
) -> Cache:
    """A cache for the captions, with room for `length` tokens. If `guided`, its rows b to 2b − 1
    are for the empty caption."""
    rows = jnp.arange(len(text_tokens))
    if guided and empty_text is not None:
        text_tokens = jnp.concatenate([text_tokens, empty_text[0]])
        text_mask = jnp.concatenate([text_mask, empty_text[1]])
        rows = jnp.concatenate([rows, jnp.full_like(rows, len(rows))])
    states = transformer.encode(params, text_tokens, text_mask)
    return transformer.init_cache(params, states[rows], text_mask[rows], length)


def guide(logits: Float[Array, "b2 v"], scale: float) -> Float[Array, "b v"]:
    """Guided logits: unconditional + scale × (conditional − unconditional). The first half of the
    rows is conditional, the second unconditional."""
    conditional, unconditional = jnp.split(logits, 2)
    if scale == 1:
        return conditional
    return unconditional + scale * (conditional - unconditional)

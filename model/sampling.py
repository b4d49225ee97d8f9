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

from model.config import SamplingConfig
from model.layers import first_largest, fold_keys
from model.transformer import Cache, DecodeStep, Params, Transformer

NOT_FINITE = -1
"""The token that is returned if the largest logit is NaN or infinite."""
COLDEST = 1e-30
"""Temperature below which sampling is greedy, because float32 would overflow."""
SoFar = tuple[Int32[Array, "b m"], Cache]
"""(the start token and the tokens so far, padded to a whole picture; the cache after them)."""
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
    begin, stop = guided_positions(image_length, config)
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


def guided_positions(image_length: int, config: SamplingConfig) -> tuple[int, int]:
    """(the first position with guidance, the first one after it)."""
    start, end = config.guidance_start, config.guidance_end
    return round(start * image_length), round(end * image_length)


def make_sampler(
    model: Transformer,
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
    if empty_text is None and config.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale {config.guidance_scale} leads away from the empty caption: give it as "
            "empty_text, or take guidance_scale 1"
        )
    allowed = allowed_classes(model, codebook_size)
    count = segments or num_segments(model.config.image_length)
    return jax.jit(_Sampling(model, config, empty_text, allowed, count).sample)


@dataclass(frozen=True, eq=False)
class _Sampling:
    """The fixed values of a sampler, and the function that it compiles."""

    model: Transformer
    config: SamplingConfig
    empty_text: EmptyText | None
    allowed: Bool[np.ndarray, " v"]
    segments: int
    """The number of segments of a whole picture."""

    def sample(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        seeds: UInt32[Array, " b"],
        first_tokens: Int[Array, "b m"] | None = None,
        kept_tokens: Int[Array, "b n"] | None = None,
    ) -> Int32[Array, "b n"]:
        """See `make_sampler`."""
        model, config, length = self.model, self.config, self.model.config.image_length
        keys = jax.vmap(jax.random.key)(seeds)
        prefix = 0 if first_tokens is None else first_tokens.shape[1]
        plan = plan_segments(length, config, self.segments, prefix)
        doubled = bool(plan) and plan[0].doubled
        params = model.lay_out(params)
        decode = model.decoder(params)
        empty = self.empty_text if doubled else None
        cache = read_text(model, params, text_tokens, text_mask, empty, prefix)
        drawn = jnp.full((len(seeds), length + 1), model.decoder_start_token_id, jnp.int32)
        if first_tokens is not None and prefix:
            drawn = drawn.at[:, 1 : prefix + 1].set(first_tokens)
            before = drawn[:, :prefix]
            _, cache = decode(jnp.tile(before, (1 + doubled, 1)), 0, cache)
        for segment in plan:
            if doubled and not segment.doubled:  # guidance is over: drop the unconditional rows
                cache = jax.tree.map(lambda leaf: leaf[: len(seeds)], cache)
            noise = make_noise(keys, segment, len(self.allowed), config)
            drawn, cache = self._draw(segment, decode, (drawn, cache), noise, kept_tokens)
        return drawn[:, 1:]

    def _draw(
        self,
        segment: Segment,
        decode: DecodeStep,
        so_far: SoFar,
        noise: Float[Array, "q b v"] | None,
        kept: Int[Array, "b n"] | None,
    ) -> SoFar:
        """The tokens with those of this segment, and the cache after them."""

        def step(index: Array, carry: SoFar) -> SoFar:
            drawn, cache = carry
            tokens = jax.lax.dynamic_slice_in_dim(drawn, index, 1, axis=1)
            logits, cache = decode(jnp.tile(tokens, (1 + segment.doubled, 1)), index, cache)
            logits = logits[:, 0]
            logits = guide(logits, segment.guidance_scale) if segment.doubled else logits
            tokens = self._choose(logits, None if noise is None else noise[index - segment.start])
            if kept is not None:
                tokens = jnp.where(kept[:, index] >= 0, kept[:, index], tokens)
            return jax.lax.dynamic_update_index_in_dim(drawn, tokens, index + 1, axis=1), cache

        drawn, cache = so_far
        return jax.lax.fori_loop(
            segment.start, segment.end, step, (drawn, cache.grown(segment.end))
        )

    def _choose(
        self, logits: Float[Array, "b c"], noise: Float[Array, "b v"] | None
    ) -> Int32[Array, " b"]:
        """A token of an allowed class for each row; NOT_FINITE where the logits are not finite."""
        logits = logits[:, : len(self.allowed)]
        if not self.allowed.all():
            logits = jnp.where(self.allowed[None], logits, -jnp.inf)
        return only_finite(sample_tokens(logits, noise, self.config), logits)


def num_codes(transformer: Transformer) -> int:
    """The number of classes that are codes of a VQGAN. In DALL·E mini's models the last class is
    the start token, not a code."""
    classes, start = transformer.config.image_vocab_size, transformer.decoder_start_token_id
    return start if start == classes - 1 else classes


def allowed_classes(transformer: Transformer, codebook_size: int | None) -> Bool[np.ndarray, " v"]:
    """True for each class that may be sampled, of the first classes of the head. Raises ValueError
    if the codebook is larger than the head."""
    codes = num_codes(transformer)
    if codebook_size is not None and codebook_size > codes:
        raise ValueError(
            f"the VQGAN's codebook of {codebook_size} is larger than the model's image_vocab_size "
            f"{codes}; use the VQGAN that the model was trained with"
        )
    return np.arange(codebook_size or codes) != transformer.decoder_start_token_id


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


def only_finite(tokens: Int32[Array, " b"], logits: Float[Array, "b v"]) -> Int32[Array, " b"]:
    """The tokens, NOT_FINITE where a logit is NaN or the largest one is infinite."""
    is_finite = jnp.isfinite(logits.max(axis=-1))  # with a NaN among them the max is NaN
    return jnp.where(is_finite, tokens, NOT_FINITE)


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
    length: int,
) -> Cache:
    """A cache for the captions, with room for `length` tokens. With an empty caption, its rows b to
    2b − 1 are for that one."""
    rows = jnp.arange(len(text_tokens))
    if empty_text is not None:
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

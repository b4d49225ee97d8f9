"""Encoder and decoder layers, and the placements of their norms as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from model.attention import Attention, KeysValues
from model.choices import Placement
from model.config import ModelConfig
from model.init import Branch, residual_scale
from model.layers import FeedForward, Norm, dropout, fold, mlp_dim

Scale = Literal["none", "scaled", "bare"]
"""No norm; a norm with a learned scale; a norm whose scale the next dense layer can learn."""


@dataclass(frozen=True)
class Norms:
    """The norms around one residual branch: before it, after it, and after the sum."""

    before: Scale = "none"
    after: Scale = "none"
    after_sum: Scale = "none"


@dataclass(frozen=True)
class LayerNorms:
    """The norms of a layer; with `closing_every`, some layers have one more."""

    attention: Norms
    mlp: Norms
    cross: Norms | None = None
    """Around cross-attention; None = as around self-attention."""
    attention_mid: Scale = "none"
    """In attention, before the output projection."""
    mlp_mid: Scale = "none"
    """In the feed-forward, before its last dense layer."""
    decoder_attention: Norms | None = None
    """In place of `attention` in the decoder."""
    closing_every: int = 0
    """Normalise the residual stream after every this many layers, but not after the last; 0 =
    never."""
    final: bool = True
    """True if a norm may follow the last layer of the stack."""


PLACEMENTS: dict[Placement, LayerNorms] = {
    "preln": LayerNorms(Norms(before="bare"), Norms(before="bare")),
    "postln": LayerNorms(Norms(after_sum="scaled"), Norms(after_sum="scaled"), final=False),
    "normformer": LayerNorms(
        Norms(before="bare", after="scaled"), Norms(before="bare"), mlp_mid="bare"
    ),
    "cogview": LayerNorms(
        Norms(before="bare", after="scaled"), Norms(before="bare", after="scaled")
    ),
    "swinv2": LayerNorms(Norms(after="scaled"), Norms(after="scaled"), closing_every=6),
    "subln": LayerNorms(
        Norms(before="bare"),
        Norms(before="bare"),
        attention_mid="scaled",
        mlp_mid="bare",
        decoder_attention=Norms(),
    ),
}


def layer_norms(config: ModelConfig, branch: Branch) -> list[LayerNorms]:
    """The norms of each layer of the encoder or the decoder."""
    config = config.for_encoder() if branch == "encoder" else config
    norms = PLACEMENTS[config.placement]
    if branch == "decoder" and norms.decoder_attention is not None:
        norms = replace(norms, attention=norms.decoder_attention)
    if config.block == "parallel":
        norms = replace(norms, cross=Norms(), mlp=Norms())
    layers = [norms] * (config.encoder_depth if branch == "encoder" else config.decoder_depth)
    if norms.closing_every:
        closed = replace(norms, mlp=replace(norms.mlp, after_sum="scaled"))
        for i in range(norms.closing_every - 1, len(layers) - 1, norms.closing_every):
            layers[i] = closed
    if not config.closing_norm_scale and norms.mlp.after_sum == "scaled":
        layers[-1] = replace(norms, mlp=replace(norms.mlp, after_sum="bare"))
    return layers


def runs(layers: Sequence[LayerNorms]) -> list[tuple[LayerNorms, int]]:
    """(norms, number of layers) of each run: a group of consecutive equal layers, one scan."""
    return [(norms, len(list(group))) for norms, group in groupby(layers)]


def make_norm(kind: Scale, dim: int, config: ModelConfig) -> Norm | None:
    """The norm of this kind; None for kind "none"."""
    if kind == "none":
        return None
    return Norm(dim, config, kind == "scaled" or config.force_norm_scale)


class Residual(nnx.Module):
    """The norms, the dropout and the sum around one residual branch."""

    def __init__(self, norms: Norms, branch: Branch, config: ModelConfig) -> None:
        self.dropout_rate = config.dropout
        self.scale = residual_scale(config, branch)
        self.norm_before = make_norm(norms.before, config.dim, config)
        self.norm_after = make_norm(norms.after, config.dim, config)
        self.norm_sum = make_norm(norms.after_sum, config.dim, config)

    def enter(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """The branch's input, computed from the residual stream."""
        return x if self.norm_before is None else self.norm_before(x)

    def add(
        self, x: Float[Array, "b q d"], output: Float[Array, "b q d"], keys: Key[Array, " b"] | None
    ) -> Float[Array, "b q d"]:
        """The residual stream with the branch's output added."""
        if self.norm_after is not None:
            output = self.norm_after(output)
        x = (x if self.scale == 1 else self.scale * x) + dropout(output, self.dropout_rate, keys)
        return x if self.norm_sum is None else self.norm_sum(x)


class EncoderLayer(nnx.Module):
    """Self-attention over the caption, then feed-forward; or both in parallel."""

    def __init__(
        self, config: ModelConfig, norms: LayerNorms, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        attention_mid = make_norm(norms.attention_mid, config.dim, config)
        mlp_mid = make_norm(norms.mlp_mid, config.mlp_dim, config)
        self.parallel = config.block == "parallel"
        self.attention = Attention(config, "encoder", attention_mid, dtype, rngs)
        self.attention_residual = Residual(norms.attention, "encoder", config)
        self.mlp = FeedForward(config, "encoder", mlp_mid, dtype, rngs)
        self.mlp_residual = Residual(norms.mlp, "encoder", config)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b 1 #q t"],
        keys: Key[Array, " b"] | None = None,
        bias: Float[Array, "h t t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The residual stream after the layer. `bias` is added to the attention scores."""
        h = self.attention_residual.enter(x)
        qkv = self.attention.queries_keys_values(h)
        mixed = self.attention(*qkv, mask, fold(keys, 0), shared_bias=bias)
        x = self.attention_residual.add(x, mixed, fold(keys, 1))
        h = h if self.parallel else self.mlp_residual.enter(x)
        return self.mlp_residual.add(x, self.mlp(h, fold(keys, 2)), fold(keys, 3))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one decoder layer, of the positions decoded so far and of the caption."""

    self_k: Float[Array, "b g n e"]
    self_v: Float[Array, "b g n e"]
    cross_k: Float[Array, "b g t e"]
    cross_v: Float[Array, "b g t e"]

    def grown(self, length: int) -> "LayerCache":
        """The cache with room for `length` positions."""

        def grow(x: Float[Array, "b g m e"]) -> Float[Array, "b g n e"]:
            return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

        return replace(self, self_k=grow(self.self_k), self_v=grow(self.self_v))

    def insert(self, k: Array, v: Array, index: int | Array) -> "LayerCache":
        """The cache with keys and values [b, g, q, e] written from position `index` on."""
        write = jax.lax.dynamic_update_slice_in_dim
        self_k = write(self.self_k, k, index, axis=2)
        return LayerCache(self_k, write(self.self_v, v, index, axis=2), self.cross_k, self.cross_v)


class DecoderLayer(nnx.Module):
    """Causal self-attention over the image tokens, cross-attention to the caption, feed-forward;
    one after the other, or all in parallel."""

    def __init__(
        self, config: ModelConfig, norms: LayerNorms, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        attention_mid = make_norm(norms.attention_mid, config.dim, config)
        mlp_mid = make_norm(norms.mlp_mid, mlp_dim(config, "decoder"), config)
        self.parallel = config.block == "parallel"
        self.attention = Attention(config, "decoder", attention_mid, dtype, rngs)
        self.attention_residual = Residual(norms.attention, "decoder", config)
        self.cross_attention = Attention(config, "cross", None, dtype, rngs)
        self.cross_residual = Residual(norms.cross or norms.attention, "decoder", config)
        self.mlp = FeedForward(config, "decoder", mlp_mid, dtype, rngs)
        self.mlp_residual = Residual(norms.mlp, "decoder", config)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        encoder_states: Float[Array, "b t d"],
        mask: Bool[Array, "1 1 n n"],
        text_mask: Bool[Array, "b 1 1 t"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n d"]:
        """The residual stream after the layer, at all positions at once."""
        h = self.attention_residual.enter(x)
        mixed = self.attention(*self.attention.queries_keys_values(h), mask, fold(keys, 0))
        caption = self.cross_attention.keys_values(encoder_states)
        return self._add_all(x, h, mixed, caption, text_mask, keys, 0)

    def decode(
        self,
        x: Float[Array, "b q d"],
        cache: LayerCache,
        index: int | Array,
        text_mask: Bool[Array, "b 1 1 t"],
    ) -> tuple[Float[Array, "b q d"], LayerCache]:
        """(residual stream after the layer, cache with the new keys and values) at positions from
        `index` on. Each position attends to the cached ones up to itself. The cache must have
        room."""
        h = self.attention_residual.enter(x)
        q, k, v = self.attention.queries_keys_values(h, index)
        cache = cache.insert(k, v, index)
        queries = index + jnp.arange(x.shape[1])
        cached = jnp.arange(cache.self_k.shape[2])
        mask = (cached[None] <= queries[:, None])[None, None]
        mixed = self.attention(q, cache.self_k, cache.self_v, mask, start=index)
        caption = cache.cross_k, cache.cross_v
        return self._add_all(x, h, mixed, caption, text_mask, None, index), cache

    def _add_all(
        self,
        x: Float[Array, "b q d"],
        h: Float[Array, "b q d"],
        mixed: Float[Array, "b q d"],
        caption: KeysValues,
        text_mask: Bool[Array, "b 1 1 t"],
        keys: Key[Array, " b"] | None,
        start: int | Array,
    ) -> Float[Array, "b q d"]:
        """The residual stream after the layer: adds self-attention's output `mixed`, then computes
        and adds cross-attention and feed-forward."""
        x = self.attention_residual.add(x, mixed, fold(keys, 1))
        h = h if self.parallel else self.cross_residual.enter(x)
        q = self.cross_attention.queries(h, start)
        mixed = self.cross_attention(q, *caption, text_mask, fold(keys, 2), start)
        x = self.cross_residual.add(x, mixed, fold(keys, 3))
        h = h if self.parallel else self.mlp_residual.enter(x)
        return self.mlp_residual.add(x, self.mlp(h, fold(keys, 4)), fold(keys, 5))

"""Encoder and decoder layers, and where norms stand in them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from model.attention import Attention
from model.config import ModelConfig, Placement
from model.layers import FeedForward, Norm, dropout, fold


@dataclass(frozen=True)
class Norms:
    """Where norms stand around one residual branch: before it, after it, after the sum."""

    before: bool = False
    after: bool = False
    after_sum: bool = False


@dataclass(frozen=True)
class LayerNorms:
    """Where norms stand in a layer, inside its feed-forward, and behind the last layer."""

    attention: Norms
    mlp: Norms
    mlp_mid: bool = False
    final: bool = True


PLACEMENTS: dict[Placement, LayerNorms] = {
    "preln": LayerNorms(Norms(before=True), Norms(before=True)),
    "postln": LayerNorms(Norms(after_sum=True), Norms(after_sum=True), final=False),
    "normformer": LayerNorms(Norms(before=True, after=True), Norms(before=True), mlp_mid=True),
}


class Residual(nnx.Module):
    """The norms and the dropout around one residual branch."""

    def __init__(self, norms: Norms, config: ModelConfig) -> None:
        self.dropout_rate = config.dropout
        self.norm_before = Norm(config.dim, config) if norms.before else None
        self.norm_after = Norm(config.dim, config) if norms.after else None
        self.norm_sum = Norm(config.dim, config) if norms.after_sum else None

    def enter(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """What the branch sees of the residual stream."""
        return x if self.norm_before is None else self.norm_before(x)

    def add(
        self, x: Float[Array, "b q d"], branch: Float[Array, "b q d"], keys: Key[Array, "b"] | None
    ) -> Float[Array, "b q d"]:
        """The residual stream with the branch's output added."""
        if self.norm_after is not None:
            branch = self.norm_after(branch)
        x = x + dropout(branch, self.dropout_rate, keys)
        return x if self.norm_sum is None else self.norm_sum(x)


class EncoderLayer(nnx.Module):
    """Self-attention over the caption, then feed-forward."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        norms = PLACEMENTS[config.placement]
        self.attention = Attention(config, dtype, rngs)
        self.attention_residual = Residual(norms.attention, config)
        self.mlp = FeedForward(config, norms.mlp_mid, dtype, rngs)
        self.mlp_residual = Residual(norms.mlp, config)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b #h #q t"],
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b t d"]:
        h = self.attention_residual.enter(x)
        h = self.attention(h, *self.attention.keys_values(h), mask, fold(keys, 0))
        x = self.attention_residual.add(x, h, fold(keys, 1))
        h = self.mlp(self.mlp_residual.enter(x), fold(keys, 2))
        return self.mlp_residual.add(x, h, fold(keys, 3))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one decoder layer: of the positions drawn so far, and of the caption."""

    self_k: Float[Array, "b h n e"]
    self_v: Float[Array, "b h n e"]
    cross_k: Float[Array, "b h t e"]
    cross_v: Float[Array, "b h t e"]

    def insert(self, k: Array, v: Array, index: Array) -> "LayerCache":
        """The cache with the keys and values [b, h, 1, e] of position `index` written."""
        write = jax.lax.dynamic_update_slice_in_dim
        self_k = write(self.self_k, k, index, axis=2)
        return LayerCache(self_k, write(self.self_v, v, index, axis=2), self.cross_k, self.cross_v)


class DecoderLayer(nnx.Module):
    """Causal self-attention over the image tokens, attention to the caption, feed-forward."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        norms = PLACEMENTS[config.placement]
        self.attention = Attention(config, dtype, rngs)
        self.attention_residual = Residual(norms.attention, config)
        self.cross_attention = Attention(config, dtype, rngs)
        self.cross_residual = Residual(norms.attention, config)
        self.mlp = FeedForward(config, norms.mlp_mid, dtype, rngs)
        self.mlp_residual = Residual(norms.mlp, config)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        encoder_states: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h n n"],
        text_mask: Bool[Array, "b #h #q t"],
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b n d"]:
        h = self.attention_residual.enter(x)
        h = self.attention(h, *self.attention.keys_values(h), mask, fold(keys, 0))
        x = self.attention_residual.add(x, h, fold(keys, 1))
        cross_k, cross_v = self.cross_attention.keys_values(encoder_states)
        return self._attend_to_caption_and_feed(x, cross_k, cross_v, text_mask, keys)

    def decode(
        self,
        x: Float[Array, "b 1 d"],
        cache: LayerCache,
        index: Array,
        length: int,
        text_mask: Bool[Array, "b #h #q t"],
    ) -> tuple[Float[Array, "b 1 d"], LayerCache]:
        """One position: look at the first `length` cached ones, of which `index` is the newest."""
        h = self.attention_residual.enter(x)
        cache = cache.insert(*self.attention.keys_values(h), index)
        mask = (jnp.arange(length) <= index)[None, None, None, :]
        h = self.attention(h, cache.self_k[:, :, :length], cache.self_v[:, :, :length], mask)
        x = self.attention_residual.add(x, h, None)
        x = self._attend_to_caption_and_feed(x, cache.cross_k, cache.cross_v, text_mask, None)
        return x, cache

    def _attend_to_caption_and_feed(
        self,
        x: Float[Array, "b n d"],
        cross_k: Float[Array, "b h t e"],
        cross_v: Float[Array, "b h t e"],
        text_mask: Bool[Array, "b #h #q t"],
        keys: Key[Array, "b"] | None,
    ) -> Float[Array, "b n d"]:
        h = self.cross_residual.enter(x)
        h = self.cross_attention(h, cross_k, cross_v, text_mask, fold(keys, 2))
        x = self.cross_residual.add(x, h, fold(keys, 3))
        h = self.mlp(self.mlp_residual.enter(x), fold(keys, 4))
        return self.mlp_residual.add(x, h, fold(keys, 5))

"""The transformer's modules: embeddings, the two stacks of layers, the output head."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from model.blocks import (
    PLACEMENTS,
    DecoderLayer,
    EncoderLayer,
    layer_norms,
    make_norm,
    runs,
)
from model.config import ModelConfig
from model.init import Branch, init_table
from model.layers import Linear, Norm, along_last, dropout
from model.positions import distance_buckets, sinusoidal
from model.products import matmul

Params = dict[str, Any]


class Embedding(nnx.Module):
    """Token embedding plus position embedding, then a norm and dropout, as in BART."""

    def __init__(self, vocab_size: int, length: int, config: ModelConfig, rngs: nnx.Rngs) -> None:
        rows = length + config.position_offset
        is_learned = config.positions == "learned"
        self.config, self.length = config, length
        # With tied embeddings the vocabulary is 0, and the table is an argument of each call.
        self.tokens = nnx.Param(init_table(vocab_size, config, rngs)) if vocab_size else None
        self.positions = nnx.Param(init_table(rows, config, rngs)) if is_learned else None
        self.norm = Norm(config.dim, config) if config.embedding_norm else None

    def __call__(
        self,
        table: Float[Array, "v d"],
        tokens: Int[Array, "b q"],
        dtype: jnp.dtype,
        start: int | Array = 0,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Embeddings of tokens at positions start, start + 1, …"""
        config = self.config
        x = jnp.asarray(table)[tokens].astype(jnp.float32)
        x = x * config.dim**0.5 if config.scale_embedding else x
        positions = self._positions()
        if positions is not None:
            x = x + jax.lax.dynamic_slice_in_dim(positions, start, tokens.shape[1])[None]
        x = (x if self.norm is None else self.norm(x)).astype(dtype)
        return dropout(x, config.dropout, keys)

    def _positions(self) -> Float[Array, "n d"] | None:
        """The vector that is added at each position; None without position embeddings."""
        config = self.config
        if self.positions is not None:
            return self.positions[...][config.position_offset :].astype(jnp.float32)
        if config.positions == "sinusoidal":
            return jnp.asarray(sinusoidal(self.length, config.dim, config.rotary_base))
        return None


class BucketBias(nnx.Module):
    """T5's bias on attention scores by the distance of key and query, shared by all layers (Raffel
    et al. 2020, arXiv:1910.10683)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        encoder = config.encoder
        self.buckets, self.distance = encoder.buckets, encoder.bucket_distance
        shape = (encoder.buckets, config.for_encoder().num_heads)
        self.table = nnx.Param(config.init_std * jax.random.normal(rngs.params(), shape))

    def __call__(self, length: int) -> Float[Array, "h t t"]:
        index = distance_buckets(length, self.buckets, self.distance)
        return self.table[...].astype(jnp.float32)[index].transpose(2, 0, 1)


class Stack(nnx.Module):
    """The layers of encoder or decoder, as `run0`, `run1`, …. A run is a group of equal layers
    whose parameters are stacked along a first axis. There are several runs only if a norm placement
    makes some layers different."""

    def __init__(
        self,
        layer: Callable[..., nnx.Module],
        branch: Branch,
        config: ModelConfig,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        alike = runs(layer_norms(config, branch))
        self.count = len(alike)
        for i, (norms, depth) in enumerate(alike):
            make = nnx.vmap(functools.partial(layer, config, norms, dtype))
            setattr(self, f"run{i}", make(rngs.split(depth)))

    def runs(self) -> list[nnx.Module]:
        """The runs, first layers first."""
        return [getattr(self, f"run{i}") for i in range(self.count)]


class Network(nnx.Module):
    """All modules: the two stacks, and the embeddings, norms and head around them."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        def final_norm(is_wanted: bool, config: ModelConfig) -> Norm | None:
            there = is_wanted and PLACEMENTS[config.placement].final
            return make_norm("bare" if there else "none", config.dim, config)

        self.config, self.dtype = config, dtype
        for_encoder = config.for_encoder()
        text_rows = 0 if config.tying == "all" else config.text_vocab_size
        self.text_embedding = Embedding(text_rows, config.text_length, for_encoder, rngs)
        self.encoder = Stack(EncoderLayer, "encoder", for_encoder, dtype, rngs)
        self.encoder_bias = BucketBias(config, rngs) if config.encoder.buckets else None
        self.encoder_norm = final_norm(config.encoder_final_norm, for_encoder)
        self.text_projection = (
            Linear(for_encoder.dim, config.dim, config, dtype, rngs)
            if for_encoder.dim != config.dim
            else None
        )
        image_rows = max(config.image_vocab_size, config.start_token + 1)
        self.image_embedding = Embedding(image_rows, config.image_length, config, rngs)
        self.decoder = Stack(DecoderLayer, "decoder", config, dtype, rngs)
        self.decoder_norm = final_norm(config.decoder_final_norm, config)
        classes = config.image_vocab_size
        self.head = (
            Linear(config.dim, classes, config, dtype, rngs, config.width_ratio**0.5, False)
            if config.tying == "none"
            else None
        )
        self.logits_bias = nnx.Param(jnp.zeros((classes,))) if config.logits_bias else None

    def embed_text(
        self, tokens: Int[Array, "b t"], keys: Key[Array, " b"] | None
    ) -> Float[Array, "b t d"]:
        """The encoder's input."""
        text_table = self.text_embedding.tokens
        table = self._image_table() if text_table is None else text_table[...]
        return self.text_embedding(table, tokens, self.dtype, keys=keys)

    def to_decoder_dim(self, states: Float[Array, "b t w"]) -> Float[Array, "b t d"]:
        """The encoder's output, projected to the decoder's width if that differs."""
        return states if self.text_projection is None else self.text_projection(states)

    def embed_image(
        self,
        tokens: Int[Array, "b q"],
        start: int | Array = 0,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b q d"]:
        """The decoder's input, for tokens at positions start, start + 1, …"""
        return self.image_embedding(self._image_table(), tokens, self.dtype, start, keys)

    def logits(self, x: Float[Array, "b q d"]) -> Float[Array, "b q v"]:
        """Logits of the image tokens, in float32."""
        config = self.config
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        if self.head is not None:
            kernel = self.head.kernel[...]
        else:
            kernel = self._image_table()[: config.image_vocab_size].T
        logits = matmul(x, kernel, self.dtype)
        scale = config.logits_scale / config.width_ratio
        logits = logits if scale == 1 else logits * scale
        if self.logits_bias is None:
            return logits
        return logits + along_last(jax.lax.stop_gradient(self.logits_bias[...]), logits)

    def _image_table(self) -> Float[Array, "v d"]:
        table = self.image_embedding.tokens
        assert table is not None  # only the text embedding may lack a table
        return table[...]


@functools.cache
def structure(config: ModelConfig, dtype: jnp.dtype) -> tuple[nnx.GraphDef[Network], Params]:
    """(the network's graph without arrays, the shapes of its parameters), cached by configuration.
    No memory is allocated."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Network(config, dtype, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)

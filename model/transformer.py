"""The text-to-image transformer: BART's encoder–decoder from a caption to a grid of image tokens.

`build(config)` gives a handle of pure functions over a plain nested dict of parameters. Layers of
a stack are stacked along a first axis and scanned. BART: Lewis et al. 2019, arXiv:1910.13461; on
image tokens: DALL·E mini, Dayma et al. 2021, doi:10.5281/zenodo.5146400.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from model.blocks import PLACEMENTS, DecoderLayer, EncoderLayer, LayerCache
from model.config import ModelConfig
from model.layers import Linear, Norm, dropout, fold

Params = dict[str, Any]


class Embedding(nnx.Module):
    """Token embedding plus learned position, then a norm and dropout, as BART does."""

    def __init__(self, vocab_size: int, length: int, config: ModelConfig, rngs: nnx.Rngs) -> None:
        def table(rows: int) -> nnx.Param:
            normal = jax.random.normal(rngs.params(), (rows, config.dim))
            return nnx.Param(config.init_std * normal)

        self.dropout_rate = config.dropout
        self.tokens = table(vocab_size)
        self.positions = table(length)
        self.norm = Norm(config.dim, config)

    def __call__(
        self,
        tokens: Int[Array, "b q"],
        dtype: jnp.dtype,
        start: int | Array = 0,
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Embed tokens that stand at positions start, start + 1, …"""
        positions = jax.lax.dynamic_slice_in_dim(self.positions[...], start, tokens.shape[1])
        x = self.norm(self.tokens[...][tokens] + positions[None]).astype(dtype)
        return dropout(x, self.dropout_rate, keys)


class Network(nnx.Module):
    """All parameters. The stacks' layers are made by vmap, so each leaf has a first layer axis."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        norms = PLACEMENTS[config.placement]

        def stack(layer: Callable[..., nnx.Module], depth: int) -> nnx.Module:
            return nnx.vmap(lambda r: layer(config, dtype, r))(rngs.split(depth))

        self.text_embedding = Embedding(config.text_vocab_size, config.text_length, config, rngs)
        self.encoder = stack(EncoderLayer, config.encoder_depth)
        self.encoder_norm = Norm(config.dim, config) if norms.final else None
        # One row more than there are image tokens: the start token.
        image_rows = config.image_vocab_size + 1
        self.image_embedding = Embedding(image_rows, config.image_length, config, rngs)
        self.decoder = stack(DecoderLayer, config.decoder_depth)
        self.decoder_norm = Norm(config.dim, config) if norms.final else None
        self.head = Linear(config.dim, config.image_vocab_size, config, dtype, rngs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What decoding keeps: a cache per layer, and which text positions are real."""

    layers: list[LayerCache]
    text_mask: Bool[Array, "b t"]


DecodeStep = Callable[[Int[Array, "b"], Array, Cache, int], tuple[Float[Array, "b v"], Cache]]


@dataclass(frozen=True)
class Transformer:
    """Pure functions of one configuration; `params` is what `init` returned or a file held."""

    config: ModelConfig
    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype(jnp.float32))

    @property
    def decoder_start_token_id(self) -> int:
        """The token in front of the first image token."""
        return self.config.image_vocab_size

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh float32 parameters."""
        return nnx.to_pure_dict(nnx.state(Network(self.config, self.dtype, nnx.Rngs(key))))

    def encode(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The caption as encoder states. Padded positions hold numbers that nobody may read."""
        network = self._network(params)
        x = network.text_embedding(text_tokens, self.dtype, keys=fold(keys, 0))
        mask = text_mask[:, None, None, :]
        x = self._scan(network.encoder, x, lambda layer, x, k: layer(x, mask, k), fold(keys, 1))
        return x if network.encoder_norm is None else network.encoder_norm(x)

    def apply(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        decoder_inputs: Int[Array, "b n"],
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b n v"]:
        """Float32 logits of every image token, each from the ones before it and the caption.

        `keys`, one per example, turn dropout on.
        """
        network = self._network(params)
        states = self.encode(params, text_tokens, text_mask, fold(keys, 0))
        n = decoder_inputs.shape[1]
        causal = jnp.tril(jnp.ones((1, 1, n, n), bool))
        visible = text_mask[:, None, None, :]
        x = network.image_embedding(decoder_inputs, self.dtype, keys=fold(keys, 1))
        x = self._scan(
            network.decoder,
            x,
            lambda layer, x, k: layer(x, states, causal, visible, k),
            fold(keys, 2),
        )
        return self._logits(network, x)

    def init_cache(
        self,
        params: Params,
        encoder_states: Float[Array, "b t d"],
        text_mask: Bool[Array, "b t"],
        length: int,
    ) -> Cache:
        """A cache for `length` positions; the caption's keys and values are computed here, once."""
        head_dim = self.config.dim // self.config.num_heads
        empty = jnp.zeros((len(text_mask), self.config.num_heads, length, head_dim), self.dtype)

        def one(layer: DecoderLayer) -> LayerCache:
            return LayerCache(empty, empty, *layer.cross_attention.keys_values(encoder_states))

        return Cache([one(layer) for layer in self._decoder_layers(params)], text_mask)

    def decoder(self, params: Params) -> DecodeStep:
        """The function (tokens, index, cache, length) → logits [b, v] of image token `index` and
        the new cache, given the decoder input `tokens` [b] at that position. It attends over the
        first `length` (static, > index) positions of the cache.

        Made once, in front of the loop: taking the layers out of their stack inside of it would
        copy every weight at every step.
        """
        network, decoder_layers = self._network(params), self._decoder_layers(params)

        def decode(
            tokens: Int[Array, "b"], index: Array, cache: Cache, length: int
        ) -> tuple[Float[Array, "b v"], Cache]:
            visible = cache.text_mask[:, None, None, :]
            x = network.image_embedding(tokens[:, None], self.dtype, start=index)
            layers = []
            for layer, old in zip(decoder_layers, cache.layers, strict=True):
                x, new = layer.decode(x, old, index, length, visible)
                layers.append(new)
            return self._logits(network, x)[:, 0], Cache(layers, cache.text_mask)

        return decode

    def _logits(self, network: Network, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        x = x if network.decoder_norm is None else network.decoder_norm(x)
        return network.head.float32(x)

    def _network(self, params: Params) -> Network:
        return nnx.merge(_structure(self.config, self.dtype), params)

    def _decoder_layers(self, params: Params) -> list[DecoderLayer]:
        graph, stacked = nnx.split(self._network(params).decoder)
        return [
            nnx.merge(graph, jax.tree.map(lambda leaf: leaf[i], stacked))  # noqa: B023
            for i in range(self.config.decoder_depth)
        ]

    def _scan(
        self,
        stack: nnx.Module,
        x: Float[Array, "b q d"],
        call: Callable[[Any, Array, Array | None], Array],
        keys: Key[Array, "b"] | None,
    ) -> Float[Array, "b q d"]:
        """Carry x through the layers of a stack; `unroll` says how many are laid out at a time."""
        graph, stacked = nnx.split(stack)
        depth = jax.tree.leaves(stacked)[0].shape[0]

        def body(x: Array, layer_and_index: tuple[Any, Array]) -> tuple[Array, None]:
            layer, index = layer_and_index
            return call(nnx.merge(graph, layer), x, fold(keys, index)), None

        if self.config.remat == "layer":
            body = jax.checkpoint(body, prevent_cse=False)
        unroll = 1 if self.config.remat != "none" else self.config.unroll or depth
        return jax.lax.scan(body, x, (stacked, jnp.arange(depth)), unroll=unroll)[0]


@functools.cache
def _structure(config: ModelConfig, dtype: jnp.dtype) -> Any:
    """The network without its arrays, made once per configuration (no memory is touched)."""
    return nnx.graphdef(nnx.eval_shape(lambda: Network(config, dtype, nnx.Rngs(0))))


def build(config: ModelConfig, compute_dtype: Any = jnp.float32) -> Transformer:
    """The model of a configuration, computing in `compute_dtype`."""
    return Transformer(config, jnp.dtype(compute_dtype))


def count_params(config: ModelConfig) -> int:
    """Parameters of a configuration, without making them."""
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

"""The text-to-image transformer: BART's encoder–decoder from a caption to a grid of image tokens.

`build(config)` returns a `Transformer`, a set of pure functions; parameters are a nested dict of
arrays. Equal layers are stacked along a first axis and scanned. BART: Lewis et al. 2019,
arXiv:1910.13461; on image tokens: DALL·E mini, Dayma et al. 2021, doi:10.5281/zenodo.5146400.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from model import decoding_layout
from model.attention import head_dim, num_heads
from model.blocks import DecoderLayer, LayerCache, layer_norms, runs
from model.choices import Remat
from model.config import ModelConfig
from model.decoding_layout import is_laid_out, with_joined_layers
from model.init import Branch
from model.layers import fold
from model.network import Network, Params, structure
from model.notes import at, note

REMAT: dict[Remat, Callable[[Callable], Callable]] = {
    "none": lambda body: body,
    "layer": functools.partial(jax.checkpoint, prevent_cse=False),
    "dots": functools.partial(
        jax.checkpoint,
        prevent_cse=False,
        policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    ),
}
"""model.remat → a wrapper of a layer that recomputes parts of it in the backward pass."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """The key/value caches of all decoder layers, and the mask of the caption's tokens."""

    layers: list[LayerCache]
    text_mask: Bool[Array, "b t"]

    def grown(self, length: int) -> "Cache":
        """The cache with room for `length` positions. Each step attends over the whole cache, and
        XLA would copy a slice of a larger one at every step, so a cache starts small and grows."""
        return Cache([layer.grown(length) for layer in self.layers], self.text_mask)


LayerCall = Callable[[Any, Array, Array | None], Array]
"""(an encoder or decoder layer, activations, keys) → activations after the layer."""
DecodeStep = Callable[[Int[Array, "b q"], int | Array, Cache], tuple[Float[Array, "b q v"], Cache]]
"""(tokens, position of the first one, cache) → (logits, new cache)."""


@dataclass(frozen=True)
class Transformer:
    """The pure functions of one configuration; `params` come from `init` or from a file."""

    config: ModelConfig
    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype(jnp.float32))

    @property
    def decoder_start_token_id(self) -> int:
        """The token before the first image token."""
        return self.config.start_token

    @property
    def shapes(self) -> Params:
        """The shapes of the parameters; no memory is allocated."""
        return structure(self.config, self.dtype)[1]

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, in float32."""
        return nnx.to_pure_dict(nnx.state(Network(self.config, self.dtype, nnx.Rngs(key))))

    def merged(self, params: Params) -> Params:
        """The parameters that all functions read: here the given ones. A subclass may compute them
        (starting/adapted.py)."""
        return params

    def encode(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The encoder's output for captions. Values at padded positions are undefined."""
        params = self.merged(params)
        network = self._network(params)
        x = network.embed_text(text_tokens, fold(keys, 0))
        mask = text_mask.astype(bool)[:, None, None, :]
        t = x.shape[1]
        if self.config.encoder.causal:
            mask = mask & jnp.tril(jnp.ones((1, 1, t, t), bool))
        bias = None if network.encoder_bias is None else network.encoder_bias(t)
        call = lambda layer, x, k: layer(x, mask, k, bias)  # noqa: E731
        x = self._through(params, network, "encoder", x, call, fold(keys, 1))
        return network.to_decoder_dim(
            x if network.encoder_norm is None else network.encoder_norm(x)
        )

    def apply(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        decoder_inputs: Int[Array, "b n"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n v"]:
        """Float32 logits of every image token, given the tokens before it and the caption.

        With `keys`, one for each example, dropout is applied.
        """
        params = self.merged(params)
        network = self._network(params)
        states = self.encode(params, text_tokens, text_mask, fold(keys, 0))
        n = decoder_inputs.shape[1]
        causal = jnp.tril(jnp.ones((1, 1, n, n), bool))
        visible = text_mask.astype(bool)[:, None, None, :]
        x = network.embed_image(decoder_inputs, keys=fold(keys, 1))
        call = lambda layer, x, k: layer(x, states, causal, visible, k)  # noqa: E731
        return network.logits(self._through(params, network, "decoder", x, call, fold(keys, 2)))

    def lay_out(self, params: Params, rows: int | None = None) -> Params:
        """The parameters in decoding layout (model/decoding_layout.py), for `rows` rows at a time
        on a CPU; None on an accelerator. All functions take either layout. Lay out once, before
        many calls."""
        return decoding_layout.lay_out(self.merged(params), self.config, self.dtype, rows)

    def init_cache(
        self,
        params: Params,
        encoder_states: Float[Array, "b t d"],
        text_mask: Bool[Array, "b t"],
        length: int,
    ) -> Cache:
        """An empty cache with room for `length` positions. It holds the keys and values of the
        caption, which are computed here, once."""
        params = self.merged(params)
        heads = num_heads(self.config, "decoder")
        shape = (self.config.num_kv_heads or heads, length, head_dim(self.config, "decoder"))
        empty = jnp.zeros((len(text_mask), *shape), self.dtype)

        def layer_cache(layer: DecoderLayer) -> LayerCache:
            return LayerCache(empty, empty, *layer.cross_attention.keys_values(encoder_states))

        layers = [
            layer_cache(layer) for layer in self._layers(params, self._network(params), "decoder")
        ]
        return Cache(layers, text_mask.astype(bool))

    def decoder(self, params: Params) -> DecodeStep:
        """A function (tokens, index, cache) → (logits, new cache). `tokens` [b, q] are decoder
        inputs at positions index, index + 1, …; the cache must have room for them.

        Call `decoder` before the decoding loop: unstacking the layers inside the loop would copy
        all weights at every step.
        """
        params = self.merged(params)
        network = self._network(params)
        decoder_layers = self._layers(params, network, "decoder")

        def decode(
            tokens: Int[Array, "b q"], index: int | Array, cache: Cache
        ) -> tuple[Float[Array, "b q v"], Cache]:
            visible = cache.text_mask[:, None, None, :]
            x = network.embed_image(tokens, index)
            layers = []
            for layer, old in zip(decoder_layers, cache.layers, strict=True):
                x, new = layer.decode(x, old, index, visible)
                layers.append(new)
            return network.logits(x), Cache(layers, cache.text_mask)

        return decode

    def _network(self, params: Params) -> Network:
        """The network with its parameters; in decoding layout its stacks hold no arrays."""
        graph, shapes = structure(self.config, self.dtype)
        if is_laid_out(params):
            params = params | {"encoder": shapes["encoder"], "decoder": shapes["decoder"]}
        return nnx.merge(graph, params)

    def _layers(self, params: Params, network: Network, branch: Branch) -> list[Any]:
        """The layers of a stack, one by one."""
        unstacked, stack = self.lay_out(params)[branch], getattr(network, branch)
        is_joined = any("joined" in layer["attention"] for layer in unstacked.values())
        graphs = [
            nnx.graphdef(with_joined_layers(run) if is_joined else run)
            for run, (_, depth) in zip(
                stack.runs(), runs(layer_norms(self.config, branch)), strict=True
            )
            for _ in range(depth)
        ]
        return [nnx.merge(graph, unstacked[f"layer{i}"]) for i, graph in enumerate(graphs)]

    def _through(
        self,
        params: Params,
        network: Network,
        branch: Branch,
        x: Float[Array, "b q d"],
        call: LayerCall,
        keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b q d"]:
        """x after all layers of a stack."""
        if is_laid_out(params):
            for index, layer in enumerate(self._layers(params, network, branch)):
                with at(f"{branch}/{index}"):
                    x = call(layer, x, fold(keys, index))
                    note("activation", lambda x=x: jnp.square(x.astype(jnp.float32)).mean())
            return x
        first = 0
        for run in getattr(network, branch).runs():
            x, first = self._scan(run, first, x, call, keys)
        return x

    def _scan(
        self,
        run: nnx.Module,
        first: int,
        x: Float[Array, "b q d"],
        call: LayerCall,
        keys: Key[Array, " b"] | None,
    ) -> tuple[Float[Array, "b q d"], int]:
        """(x after a run of equal layers, the number of the layer after it). `first` is the number
        of the run's first layer."""
        graph, stacked = nnx.split(run)
        depth = jax.tree.leaves(stacked)[0].shape[0]

        def body(x: Array, layer_and_index: tuple[object, Array]) -> tuple[Array, None]:
            layer, index = layer_and_index
            return call(nnx.merge(graph, layer), x, fold(keys, index)), None

        unroll = 1 if self.config.remat != "none" else self.config.unroll or depth
        indices = jnp.arange(first, first + depth)
        body = REMAT[self.config.remat](body)
        return jax.lax.scan(body, x, (stacked, indices), unroll=unroll)[0], first + depth


def build(config: ModelConfig, compute_dtype: DTypeLike = jnp.float32) -> Transformer:
    """The model of a configuration. Its activations and products have `compute_dtype`."""
    return Transformer(config, jnp.dtype(compute_dtype))


def count_params(config: ModelConfig) -> int:
    """The number of parameters of a configuration; no memory is allocated."""
    return sum(leaf.size for leaf in jax.tree.leaves(build(config).shapes))

"""The transformer with low-rank adapters: every function merges them into the parameters first."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from model import transformer
from model.config import ModelConfig
from model.transformer import Cache, DecodeStep, Params, Transformer
from optim.adapters import init_adapters, merge
from optim.config import ADAPTERS, AdapterConfig

TAG = 0x61646170  # apart from the keys of the other parameters


@dataclass(frozen=True)
class AdaptedTransformer(Transformer):
    """A transformer whose parameters may hold adapters (optim/adapters.py). Merged parameters, and
    those in decoding layout, are used unchanged."""

    adapters: AdapterConfig = field(default_factory=AdapterConfig)

    @property
    def shapes(self) -> Params:
        """The shapes of parameters and adapters; no memory is allocated."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random float32 parameters and adapters. The parameters equal those without adapters."""
        params = super().init(key)
        own = init_adapters(jax.random.fold_in(key, TAG), params, self.adapters)
        return {**params, ADAPTERS: own}

    def merged(self, params: Params) -> Params:
        """The parameters with their adapters merged, in the structure without adapters."""
        return merge(params, self.adapters)

    def encode(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """See Transformer."""
        return super().encode(self.merged(params), text_tokens, text_mask, keys)

    def apply(
        self,
        params: Params,
        text_tokens: Int[Array, "b t"],
        text_mask: Bool[Array, "b t"],
        decoder_inputs: Int[Array, "b n"],
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n v"]:
        """See Transformer."""
        return super().apply(self.merged(params), text_tokens, text_mask, decoder_inputs, keys)

    def lay_out(self, params: Params, rows: int | None = None) -> Params:
        """See Transformer; the result has no adapters."""
        return super().lay_out(self.merged(params), rows)

    def init_cache(
        self,
        params: Params,
        encoder_states: Float[Array, "b t d"],
        text_mask: Bool[Array, "b t"],
        length: int,
    ) -> Cache:
        """See Transformer."""
        return super().init_cache(self.merged(params), encoder_states, text_mask, length)

    def decoder(self, params: Params) -> DecodeStep:
        """See Transformer."""
        return super().decoder(self.merged(params))


def build(
    config: ModelConfig, adapters: AdapterConfig, compute_dtype: Any = jnp.float32
) -> Transformer:
    """The model of a configuration, with adapters if they have a rank."""
    if not adapters.rank:
        return transformer.build(config, compute_dtype)
    return AdaptedTransformer(config, jnp.dtype(compute_dtype), adapters)

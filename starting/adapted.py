"""The transformer with low-rank adapters, which are merged into the parameters that it reads."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from model import transformer
from model.config import ModelConfig
from model.transformer import Params, Transformer
from optim.adapters import init_adapters, merge
from optim.config import ADAPTERS, AdapterConfig

TAG = 0x61646170  # apart from the keys of the other parameters


@dataclass(frozen=True)
class AdaptedTransformer(Transformer):
    """A transformer whose parameters may hold adapters (optim/adapters.py)."""

    adapters: AdapterConfig = field(default_factory=AdapterConfig)

    @property
    def shapes(self) -> Params:
        """The shapes of parameters and adapters; no memory is allocated."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random float32 parameters and adapters. The parameters equal those without adapters."""
        params = super().init(key)
        adapters = init_adapters(jax.random.fold_in(key, TAG), params, self.adapters)
        return {**params, ADAPTERS: adapters}

    def merged(self, params: Params) -> Params:
        """The parameters with their adapters merged, in the structure without adapters. Merged
        parameters, and those in decoding layout, are unchanged."""
        return merge(params, self.adapters)


def build(
    config: ModelConfig, adapters: AdapterConfig, compute_dtype: DTypeLike = jnp.float32
) -> Transformer:
    """The model of a configuration, with adapters if they have a rank."""
    if not adapters.rank:
        return transformer.build(config, compute_dtype)
    return AdaptedTransformer(config, jnp.dtype(compute_dtype), adapters)

"""Multi-head attention. Vaswani et al. 2017, arXiv:1706.03762."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from model.config import ModelConfig
from model.layers import Linear, dropout


def attend(
    q: Float[Array, "b h q e"],
    k: Float[Array, "b h k e"],
    v: Float[Array, "b h k e"],
    mask: Bool[Array, "#b #h #q k"],
    dropout_rate: float = 0.0,
    keys: Key[Array, "b"] | None = None,
) -> Float[Array, "b h q e"]:
    """Scaled dot-product attention, softmax in float32; `mask` broadcasts to [b, h, q, k] and is
    True where a query may look. Each query needs at least one such position."""
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bhqe,bhke->bhqk", q * scale, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, dropout_rate, keys)
    mixed = jnp.einsum("bhqk,bhke->bhqe", weights, v, preferred_element_type=jnp.float32)
    return mixed.astype(v.dtype)


class Attention(nnx.Module):
    """Queries from one sequence, keys and values from another (or the same).

    `keys_values` stands apart so that decoding computes them once and keeps them.
    """

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.num_heads = config.num_heads
        self.dropout_rate = config.attention_dropout
        self.q = Linear(config.dim, config.dim, config, dtype, rngs)
        self.k = Linear(config.dim, config.dim, config, dtype, rngs)
        self.v = Linear(config.dim, config.dim, config, dtype, rngs)
        self.out = Linear(config.dim, config.dim, config, dtype, rngs)

    def keys_values(
        self, context: Float[Array, "b k d"]
    ) -> tuple[Float[Array, "b h k e"], Float[Array, "b h k e"]]:
        return self._heads(self.k(context)), self._heads(self.v(context))

    def __call__(
        self,
        x: Float[Array, "b q d"],
        k: Float[Array, "b h k e"],
        v: Float[Array, "b h k e"],
        mask: Bool[Array, "#b #h #q k"],
        keys: Key[Array, "b"] | None = None,
    ) -> Float[Array, "b q d"]:
        mixed = attend(self._heads(self.q(x)), k, v, mask, self.dropout_rate, keys)
        return self.out(rearrange(mixed, "b h q e -> b q (h e)"))

    def _heads(self, x: Array) -> Array:
        return rearrange(x, "b q (h e) -> b h q e", h=self.num_heads)

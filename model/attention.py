"""Multi-head attention and its variants. Vaswani et al. 2017, arXiv:1706.03762."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from model.choices import Scores
from model.config import ModelConfig
from model.init import Branch, branch_gain
from model.layers import Joined, Linear, Norm, dropout
from model.notes import entropy, note
from model.positions import num_offsets, offset_index, rotary_angles, rotate
from model.products import product, product_of_rows

HIDDEN = jnp.finfo(jnp.float32).min
"""Score of a masked position."""
KeysValues = tuple[Float[Array, "b g k e"], Float[Array, "b g k e"]]


def sinkhorn(
    scores: Float[Array, "b h q k"], mask: Bool[Array, "#b #h #q k"], iterations: int
) -> Float[Array, "b h q k"]:
    """Attention weights, normalised in turn over keys, queries, keys, …, in log space. One
    iteration is softmax. Sander et al. 2021, arXiv:2110.11773."""
    for i in range(iterations):
        over = -1 if i % 2 == 0 else -2
        normalised = scores - jax.nn.logsumexp(scores, axis=over, keepdims=True)
        scores = jnp.where(mask, normalised, HIDDEN)
    return jnp.exp(scores)


def weigh(
    q: Float[Array, "b h q e"],
    k: Float[Array, "b g k e"],
    mask: Bool[Array, "#b 1 #q k"],
    scale: float,
    bias: Float[Array, "h q k"] | None = None,
    sinkhorn_iterations: int = 1,
) -> Float[Array, "b h q k"]:
    """Attention weights: softmax(q · k × scale + bias), in float32.

    Each of the g key heads serves h / g consecutive query heads. `mask` is True where a query may
    attend; each query needs at least one such position.
    """
    heads, groups = q.shape[1], k.shape[1]
    grouped = rearrange(q * scale, "b (g r) q e -> b g (r q) e", g=groups)
    scores = product_of_rows(grouped, k)
    scores = rearrange(scores, "b g (r q) k -> b (g r) q k", r=heads // groups)
    scores = scores if bias is None else scores + bias[None]
    scores = jnp.where(mask, scores, HIDDEN)
    if sinkhorn_iterations > 1:
        weights = sinkhorn(scores, mask, sinkhorn_iterations)
    else:
        weights = jax.nn.softmax(scores, axis=-1)
    note("attention", lambda: entropy(weights).mean())
    return weights


def mix(weights: Float[Array, "b h q k"], v: Float[Array, "b g k e"]) -> Float[Array, "b h q e"]:
    """The weighted sums of the values. Each value head serves a group of query heads."""
    heads, groups = weights.shape[1], v.shape[1]
    weights = rearrange(weights, "b (g r) q k -> b g (r q) k", g=groups)
    mixed = product(weights, v)
    return rearrange(mixed, "b g (r q) e -> b (g r) q e", r=heads // groups).astype(v.dtype)


def unit_length(x: Float[Array, "b h q e"]) -> Float[Array, "b h q e"]:
    """Each head's vector scaled to unit length, in float32."""
    wide = x.astype(jnp.float32)
    return (wide / (jnp.linalg.norm(wide, axis=-1, keepdims=True) + 1e-8)).astype(x.dtype)


SCORE_SCALES: dict[Scores, Callable[[ModelConfig, int], float]] = {
    "dot": lambda config, head_dim: (head_dim * config.width_ratio) ** -0.5,
    "unscaled": lambda config, head_dim: 1.0,
    "qk_norm": lambda config, head_dim: (head_dim * config.width_ratio) ** -0.5,
    "cosine": lambda config, head_dim: 1 / config.cosine_temperature,
}


def num_heads(config: ModelConfig, branch: Branch) -> int:
    """The number of query heads, in the encoder or in the decoder."""
    return config.num_heads if branch == "encoder" else config.decoder_num_heads or config.num_heads


def head_dim(config: ModelConfig, branch: Branch) -> int:
    """Channels of a head, in the encoder or in the decoder."""
    return config.head_dim or config.dim // num_heads(config, branch)


class Attention(nnx.Module):
    """Attention with queries from one sequence, and keys and values from another (or the same).

    `queries` and `keys_values` are separate methods, so that decoding computes keys and values once
    and caches them. They apply rotary positions and norms. `start` is the position of the first
    row.
    """

    joined: Joined | None = None
    """One dense layer in place of q, k and v, in decoding layout."""

    def __init__(
        self,
        config: ModelConfig,
        branch: Branch,
        mid_norm: Norm | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        heads = num_heads(config, branch)
        self.config, self.branch = config, branch
        self.num_heads, self.num_kv_heads = heads, config.num_kv_heads or heads
        self.head_dim = head_dim(config, branch)
        q_dim, kv_dim = (n * self.head_dim for n in (heads, self.num_kv_heads))
        wide = branch_gain(config, branch)
        self.q = Linear(config.dim, q_dim, config, dtype, rngs)
        self.k = Linear(config.dim, kv_dim, config, dtype, rngs)
        self.v = Linear(config.dim, kv_dim, config, dtype, rngs, wide)
        self.out = Linear(q_dim, config.dim, config, dtype, rngs, wide)
        normed = config.scores == "qk_norm"
        self.q_norm = Norm(self.head_dim, config) if normed else None
        self.k_norm = Norm(self.head_dim, config) if normed else None
        self.head_scale = nnx.Param(jnp.ones((heads,))) if config.head_scale else None
        shape = _bias_shape(config, branch, heads)
        self.relative_bias = (
            None
            if shape is None
            else nnx.Param(config.init_std * jax.random.normal(rngs.params(), shape))
        )
        self.mid_norm = mid_norm

    def join(self) -> None:
        """Replace q, k and v by one dense layer."""
        self.joined = Joined((self.q, self.k, self.v))
        del self.q, self.k, self.v

    def queries(self, x: Float[Array, "b q d"], start: int | Array = 0) -> Float[Array, "b h q e"]:
        """The queries of rows at positions from `start` on."""
        return self._prepare(self.q(x), self.num_heads, self.q_norm, start)

    def keys_values(self, context: Float[Array, "b k d"]) -> KeysValues:
        """The keys and values of a context, from position 0 on."""
        k = self._prepare(self.k(context), self.num_kv_heads, self.k_norm, 0)
        return k, self._heads(self.v(context), self.num_kv_heads)

    def queries_keys_values(
        self, x: Float[Array, "b q d"], start: int | Array = 0
    ) -> tuple[Float[Array, "b h q e"], Float[Array, "b g q e"], Float[Array, "b g q e"]]:
        """Queries, keys and values of one sequence."""
        if self.joined is None:
            q, k, v = self.q(x), self.k(x), self.v(x)
        else:
            q, k, v = self.joined.outputs(x)
        return (
            self._prepare(q, self.num_heads, self.q_norm, start),
            self._prepare(k, self.num_kv_heads, self.k_norm, start),
            self._heads(v, self.num_kv_heads),
        )

    def __call__(
        self,
        q: Float[Array, "b h q e"],
        k: Float[Array, "b g k e"],
        v: Float[Array, "b g k e"],
        mask: Bool[Array, "#b 1 #q k"],
        keys: Key[Array, " b"] | None = None,
        start: int | Array = 0,
        shared_bias: Float[Array, "h q k"] | None = None,
    ) -> Float[Array, "b q d"]:
        """The output of attention, for queries, keys and values of these methods. `shared_bias` is
        added to the scores, as the layer's own relative bias is."""
        config = self.config
        bias = self._bias(start, q.shape[2], k.shape[2])
        if shared_bias is not None:
            bias = shared_bias if bias is None else bias + shared_bias
        weights = weigh(
            q,
            k,
            mask,
            SCORE_SCALES[config.scores](config, self.head_dim),
            bias,
            config.sinkhorn_iterations if self.branch == "encoder" else 1,
        )
        mixed = mix(dropout(weights.astype(v.dtype), config.attention_dropout, keys), v)
        if self.head_scale is not None:
            mixed = mixed * self.head_scale[...].astype(mixed.dtype)[None, :, None, None]
        merged = rearrange(mixed, "b h q e -> b q (h e)")
        return self.out(merged if self.mid_norm is None else self.mid_norm(merged))

    def _heads(self, x: Float[Array, "b q f"], heads: int) -> Float[Array, "b h q e"]:
        return rearrange(x, "b q (h e) -> b h q e", h=heads)

    def _prepare(
        self, x: Float[Array, "b q f"], heads: int, norm: Norm | None, start: int | Array
    ) -> Float[Array, "b h q e"]:
        """Queries or keys, split into heads, with norm and rotary position applied."""
        x = self._heads(x, heads)
        if norm is not None:
            x = norm(x)
        if self.config.scores == "cosine":
            x = unit_length(x)
        if self.config.positions == "rotary" and self.branch != "cross":
            rows, columns = grid(self.config, self.branch)
            angles = rotary_angles(rows, columns, self.head_dim, self.config.rotary_base)
            x = rotate(x, jax.lax.dynamic_slice_in_dim(jnp.asarray(angles), start, x.shape[2]))
        return x

    def _bias(self, start: int | Array, q: int, k: int) -> Float[Array, "h q k"] | None:
        """The relative bias of q positions from `start` on to the first k keys; None without
        one."""
        if self.relative_bias is None:
            return None
        table = self.relative_bias[...]
        if self.config.relative_bias == "pair":
            return jax.lax.dynamic_slice_in_dim(table, start, q, axis=1)[:, :, :k]
        index = jnp.asarray(offset_index(*grid(self.config, self.branch)))
        return table[:, jax.lax.dynamic_slice_in_dim(index, start, q)[:, :k]]


def grid(config: ModelConfig, branch: Branch) -> tuple[int, int]:
    """Rows and columns of the tokens in self-attention; text is one row."""
    if branch == "encoder":
        return 1, config.text_length
    return config.image_length // config.grid_size, config.grid_size


def _bias_shape(config: ModelConfig, branch: Branch, heads: int) -> tuple[int, ...] | None:
    lengths: dict[Branch, tuple[int, int]] = {
        "encoder": (config.text_length, config.text_length),
        "decoder": (config.image_length, config.image_length),
        "cross": (config.image_length, config.text_length),
    }
    if config.relative_bias == "pair":
        return heads, *lengths[branch]
    if config.relative_bias == "offset" and branch != "cross":
        return heads, num_offsets(*grid(config, branch))
    return None

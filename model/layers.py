"""Layers that all blocks use: dense layers, norms, dropout, feed-forward.

Parameters are float32; `dtype` is the precision of products and activations. Norms always compute
in float32.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, Key, Shaped

from model.choices import Activation
from model.config import ModelConfig
from model.init import Branch, branch_gain, init_kernel
from model.products import matmul


def smelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Smooth ReLU: 0 below −1, x above 1, a parabola between. Shamir et al. 2022, arXiv:2202.06499,
    eq. 7."""
    return jnp.where(jnp.abs(x) < 1, jnp.square(x + 1) / 4, jax.nn.relu(x))


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "smelu": smelu,
}


class Linear(nnx.Module):
    """A dense layer: y = x @ kernel (+ bias)."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        config: ModelConfig,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        gain: float = 1.0,
        may_have_bias: bool = True,
    ) -> None:
        has_bias = config.use_bias and may_have_bias
        self.dtype = dtype
        self.kernel = nnx.Param(init_kernel(d_in, d_out, config, rngs, gain))
        self.bias = nnx.Param(jnp.zeros((d_out,))) if has_bias else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b f"]:
        y = matmul(x, self.kernel[...], self.dtype)
        y = y if self.bias is None else y + along_last(self.bias[...], y)
        return y.astype(self.dtype)


class Joined(Linear):
    """Several dense layers with the same input, as one: for few rows one wide product is faster
    than several narrow ones. `Transformer.lay_out` decides where it is used."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        first = linears[0]
        self.dtype, self.kernel, self.bias = first.dtype, first.kernel, first.bias
        self.widths = tuple(linear.kernel.shape[-1] for linear in linears)

    def outputs(self, x: Float[Array, "*b d"]) -> list[Float[Array, "*b _"]]:
        """The output of each dense layer."""
        return jnp.split(self(x), np.cumsum(self.widths)[:-1].tolist(), axis=-1)


def join(linears: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The parameters of `Joined`, from the parameters of its dense layers."""
    return {
        name: jnp.concatenate([linear[name] for linear in linears], axis=-1) for name in linears[0]
    }


def along_last(vector: Shaped[Array, " d"], x: Float[Array, "*b d"]) -> Shaped[Array, "*#b d"]:
    """The vector with as many axes as x, because implicit rank promotion is off in the tests."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, " d"] | None,
    bias: Float[Array, " d"],
    epsilon: float = 1e-5,
) -> Float[Array, "*b d"]:
    """x centred and scaled to unit variance, in float32. Ba et al. 2016, arXiv:1607.06450."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    unit = unit if scale is None else unit * along_last(scale, x)
    return (unit + along_last(bias, x)).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"] | None, epsilon: float = 1e-5
) -> Float[Array, "*b d"]:
    """x scaled to unit root-mean-square, in float32. Zhang & Sennrich 2019, arXiv:1910.07467."""
    wide = x.astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (unit if scale is None else unit * along_last(scale, x)).astype(x.dtype)


class Norm(nnx.Module):
    """The norm that `config.norm` names, with a learned scale or without."""

    def __init__(self, dim: int, config: ModelConfig, has_scale: bool = True) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones((dim,))) if has_scale else None
        self.bias = nnx.Param(jnp.zeros((dim,))) if config.norm == "layernorm" else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = None if self.scale is None else self.scale[...]
        if self.bias is None:
            return rms_norm(x, scale, self.epsilon)
        return layer_norm(x, scale, self.bias[...], self.epsilon)


def first_largest(x: Float[Array, "*b v"]) -> Int32[Array, "*b"]:
    """argmax along the last axis; the first index if several are largest. It takes two passes that
    XLA vectorises on a CPU, where jnp.argmax takes 8 times as long."""
    last = x.shape[-1] - 1
    is_largest = x == x.max(-1, keepdims=True)
    indices = jnp.arange(last + 1, dtype=jnp.int32)
    return jnp.where(is_largest, along_last(indices, x), last).min(-1)


def fold_keys(keys: Key[Array, " b"], site: int | Array) -> Key[Array, " b"]:
    """The keys folded with `site`, the number of a place in the network. Each place and example
    gets a different key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, site)


def fold(keys: Key[Array, " b"] | None, site: int | Array) -> Key[Array, " b"] | None:
    """`fold_keys`; None (no dropout) stays None."""
    return None if keys is None else fold_keys(keys, site)


def dropout(
    x: Float[Array, " b *s"], rate: float, keys: Key[Array, " b"] | None
) -> Float[Array, " b *s"]:
    """x with a share `rate` of its values set to zero and the others scaled up; unchanged if `keys`
    is None.

    Each example has its own key, so its mask depends on neither batch nor device.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)


class FeedForward(nnx.Module):
    """Dense, activation, optional gate (Shazeer 2020, arXiv:2002.05202), optional norm, dense."""

    joined: Joined | None = None
    """One dense layer in place of up and gate, in decoding layout."""

    def __init__(
        self,
        config: ModelConfig,
        branch: Branch,
        mid_norm: Norm | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        hidden = mlp_dim(config, branch)
        wide = branch_gain(config, branch)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout_rate = config.activation_dropout
        self.up = Linear(config.dim, hidden, config, dtype, rngs, wide)
        self.gate = (
            Linear(config.dim, hidden, config, dtype, rngs, wide) if config.use_glu else None
        )
        self.mid_norm = mid_norm
        self.down = Linear(hidden, config.dim, config, dtype, rngs, wide)

    def join(self) -> None:
        """Replace up and gate by one dense layer; nothing to do without a gate."""
        if self.gate is not None:
            self.joined = Joined((self.up, self.gate))
            del self.up, self.gate

    def __call__(
        self, x: Float[Array, "b q d"], keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b q d"]:
        up, *gates = self._outputs(x)
        hidden = self.activation(up.astype(jnp.float32))
        for gate in gates:
            hidden = hidden * gate.astype(jnp.float32)
        hidden = hidden.astype(x.dtype)
        if self.mid_norm is not None:
            hidden = self.mid_norm(hidden)
        return self.down(dropout(hidden, self.dropout_rate, keys))

    def _outputs(self, x: Float[Array, "b q d"]) -> list[Float[Array, "b q f"]]:
        """[output of up], or [output of up, output of gate]."""
        if self.joined is not None:
            return self.joined.outputs(x)
        return [self.up(x)] if self.gate is None else [self.up(x), self.gate(x)]


def mlp_dim(config: ModelConfig, branch: Branch) -> int:
    """Hidden channels of the encoder's or the decoder's feed-forward."""
    return config.mlp_dim if branch == "encoder" else config.decoder_mlp_dim or config.mlp_dim

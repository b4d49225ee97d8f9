"""The small parts every block is made of: products, dense layers, norms, dropout, feed-forward.

Parameters are float32; `dtype` is the precision of products and activations. Norms compute in
float32 whatever the dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from model.config import Activation, ModelConfig

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def matmul(
    x: Float[Array, "*b d"], kernel: Float[Array, "d f"], dtype: jnp.dtype
) -> Float[Array, "*b f"]:
    """x @ kernel with operands in `dtype`; sums and the result are float32.

    In half precision the backward products are written out as well: XLA on CPU reaches its
    bfloat16 kernels only for half × half → float32, and jax's own rule would mix the types.
    """
    if dtype == jnp.float32:
        return x @ kernel
    return _half_matmul(x.astype(dtype), kernel.astype(dtype))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _half_matmul(x: Array, kernel: Array) -> Array:
    return _product(x, kernel)


def _half_matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)


def _half_matmul_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    rows, columns = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    # The barrier keeps a transposed operand from being folded into a product that has no kernel.
    transposed_kernel, transposed_rows = jax.lax.optimization_barrier((kernel.T, rows.T))
    to_x, to_kernel = _product(gradient, transposed_kernel), _product(transposed_rows, columns)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


_half_matmul.defvjp(_half_matmul_forward, _half_matmul_backward)


class Linear(nnx.Module):
    """y = x · kernel (+ bias)."""

    def __init__(
        self, d_in: int, d_out: int, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.dtype = dtype
        self.kernel = nnx.Param(config.init_std * jax.random.normal(rngs.params(), (d_in, d_out)))
        self.bias = nnx.Param(jnp.zeros((d_out,))) if config.use_bias else None

    def float32(self, x: Float[Array, "*b d"]) -> Float[Array, "*b f"]:
        """The product as it was summed, for logits."""
        y = matmul(x, self.kernel[...], self.dtype)
        return y if self.bias is None else y + along_last(self.bias[...], y)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b f"]:
        return self.float32(x).astype(self.dtype)


def along_last(vector: Float[Array, "d"], x: Float[Array, "*b d"]) -> Float[Array, "*#b d"]:
    """The vector with as many axes as x: shapes never promote silently in this repository."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, "d"],
    bias: Float[Array, "d"],
    epsilon: float = 1e-5,
) -> Float[Array, "*b d"]:
    """Centre x, scale it to unit variance, in float32. Ba et al. 2016, arXiv:1607.06450."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    unit = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return (unit * along_last(scale, x) + along_last(bias, x)).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, "d"], epsilon: float = 1e-5
) -> Float[Array, "*b d"]:
    """Scale x to unit root-mean-square, in float32. Zhang & Sennrich 2019, arXiv:1910.07467."""
    wide = x.astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (unit * along_last(scale, x)).astype(x.dtype)


class Norm(nnx.Module):
    """The norm that `config.norm` names."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        self.scale = nnx.Param(jnp.ones((dim,)))
        self.bias = nnx.Param(jnp.zeros((dim,))) if config.norm == "layernorm" else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        if self.bias is None:
            return rms_norm(x, self.scale[...])
        return layer_norm(x, self.scale[...], self.bias[...])


def fold_keys(keys: Key[Array, "b"], site: int | Array) -> Key[Array, "b"]:
    """Keys for one place in the network: the same place and example always get the same key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, site)


def fold(keys: Key[Array, "b"] | None, site: int | Array) -> Key[Array, "b"] | None:
    """`fold_keys`, where None (not training) stays None."""
    return None if keys is None else fold_keys(keys, site)


def dropout(
    x: Float[Array, "b *s"], rate: float, keys: Key[Array, "b"] | None
) -> Float[Array, "b *s"]:
    """Zero a share `rate` of x and scale up the rest; `keys` None means not training.

    One key per example, so that its mask depends neither on its neighbours nor on its device.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)


class FeedForward(nnx.Module):
    """Dense → activation (→ × gate; Shazeer 2020, arXiv:2002.05202) → norm where asked → dense."""

    def __init__(
        self, config: ModelConfig, mid_norm: bool, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.activation = ACTIVATIONS[config.activation]
        self.dropout_rate = config.activation_dropout
        self.up = Linear(config.dim, config.mlp_dim, config, dtype, rngs)
        self.gate = (
            Linear(config.dim, config.mlp_dim, config, dtype, rngs) if config.use_glu else None
        )
        self.mid_norm = Norm(config.mlp_dim, config) if mid_norm else None
        self.down = Linear(config.mlp_dim, config.dim, config, dtype, rngs)

    def __call__(
        self, x: Float[Array, "b q d"], keys: Key[Array, "b"] | None = None
    ) -> Float[Array, "b q d"]:
        hidden = self.activation(self.up(x))
        if self.gate is not None:
            hidden = hidden * self.gate(x)
        if self.mid_norm is not None:
            hidden = self.mid_norm(hidden)
        return self.down(dropout(hidden, self.dropout_rate, keys))

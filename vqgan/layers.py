"""The kinds of layers in an autoencoder, as a table of `init` and `apply` functions.

Pictures are NHWC in float32; with half precision the codebook does not train.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from model import layers
from vqgan.config import Norm

Params = dict
Picture = Float[Array, "b _ _ _"]


@dataclass(frozen=True)
class Layer:
    """One layer in the plan of an autoencoder."""

    name: str
    kind: str
    """A key of KINDS."""
    c_in: int
    c_out: int
    kernel: int = 3
    """Side of the convolution."""
    factor: int = 1
    """Positions along each axis that are folded into channels, or unfolded from them."""
    norm: Norm = "rmsnorm"


class Kind(NamedTuple):
    """A kind of layer: its parameters and its function."""

    init: Callable[[Layer, Key[Array, ""]], Params]
    apply: Callable[[Layer, Params, Picture], Picture]


def init_conv(
    key: Key[Array, ""], c_in: int, c_out: int, kernel: int = 3, gain: float = 1.0
) -> Params:
    """A random kernel with variance gain² / fan-in, and a bias of 0."""
    scale = gain / (kernel * kernel * c_in) ** 0.5
    return {
        "kernel": scale * jax.random.normal(key, (kernel, kernel, c_in, c_out)),
        "bias": jnp.zeros((c_out,)),
    }


def conv(params: Params, x: Picture, stride: int = 1, padding: str | tuple = "SAME") -> Picture:
    """A convolution in NHWC. A 1 × 1 convolution is a matrix product, which XLA runs faster."""
    kernel = params["kernel"]
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0] + _per_channel(params["bias"])
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + _per_channel(params["bias"])


def conv_of_doubled(params: Params, x: Picture) -> Picture:
    """A 3 × 3 convolution of x after nearest-neighbour upsampling by 2, at 4/9 of the cost.

    Each pixel of an upsampled 2 × 2 square depends on 2 × 2 positions of x only. Taps on the same
    position are summed, and one 2 × 2 convolution gives all four pixels.
    """
    height, width, c_out = *x.shape[1:3], params["kernel"].shape[-1]
    kernels = [part for half in _halve(params["kernel"], 0) for part in _halve(half, 1)]
    summed = {"kernel": jnp.concatenate(kernels, -1), "bias": jnp.tile(params["bias"], 4)}
    y = rearrange(conv(summed, x, padding=((1, 1), (1, 1))), "b y x (p c) -> b y x p c", c=c_out)
    pixels = [y[:, p : p + height, q : q + width, 2 * p + q] for p in (0, 1) for q in (0, 1)]
    return rearrange(pixels, "(p q) b y x c -> b (y p) (x q) c", p=2)


def _halve(kernel: Float[Array, "_ _ _ _"], axis: int) -> tuple[Array, Array]:
    """The kernels for the even and the odd pixels along an axis of the upsampled picture."""
    before, middle, after = jnp.split(kernel, 3, axis)
    even = jnp.concatenate([before, middle + after], axis)
    return even, jnp.concatenate([before + middle, after], axis)


def _per_channel(values: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    return values[None, None, None]


def rms_norm(params: Params, x: Picture) -> Picture:
    """x scaled to unit root-mean-square over channels."""
    return layers.rms_norm(x, params["scale"], epsilon=1e-6)


def group_norm(params: Params, x: Picture, groups: int = 32) -> Picture:
    """x with zero mean and unit variance in each group of channels. Wu & He 2018,
    arXiv:1803.08494."""
    group = jnp.arange(x.shape[-1]) // (x.shape[-1] // groups)
    same_group = jnp.float32(group[:, None] == group[None]) * (groups / x.shape[-1])

    def mean(y: Picture) -> Picture:
        # As a product: XLA on CPU would broadcast means over channels again at every place, slowly.
        per_channel = y.mean((1, 2))
        return jnp.matmul(per_channel, same_group, precision="highest")[:, None, None]

    centred = x - mean(x)
    unit = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-6)
    return unit * _per_channel(params["scale"]) + _per_channel(params["bias"])


NORMS: dict[Norm, Callable[[Params, Picture], Picture]] = {
    "rmsnorm": rms_norm,
    "groupnorm": group_norm,
}


def init_norm(norm: Norm, channels: int) -> Params:
    """Initial parameters: a scale of 1 and, for a group norm, a bias of 0."""
    bias = {"bias": jnp.zeros((channels,))} if norm == "groupnorm" else {}
    return {"scale": jnp.ones((channels,)), **bias}


def fold(x: Picture, factor: int) -> Picture:
    """x with each factor × factor square of positions as one position with factor² × channels."""
    return rearrange(x, "b (y p) (x q) c -> b y x (p q c)", p=factor, q=factor)


def unfold(x: Picture, factor: int) -> Picture:
    """The inverse of `fold`."""
    return rearrange(x, "b y x (p q c) -> b (y p) (x q) c", p=factor, q=factor)


def _init_plain(layer: Layer, key: Key[Array, ""]) -> Params:
    return init_conv(key, layer.c_in, layer.c_out, layer.kernel)


def _init_fold(layer: Layer, key: Key[Array, ""]) -> Params:
    return init_conv(key, layer.c_in * layer.factor**2, layer.c_out, layer.kernel)


def _init_unfold(layer: Layer, key: Key[Array, ""]) -> Params:
    return init_conv(key, layer.c_in, layer.c_out * layer.factor**2, layer.kernel)


def _apply_fold(layer: Layer, params: Params, x: Picture) -> Picture:
    return conv(params, fold(x, layer.factor))


def _apply_unfold(layer: Layer, params: Params, x: Picture) -> Picture:
    return unfold(conv(params, x), layer.factor)


def _apply_down(layer: Layer, params: Params, x: Picture) -> Picture:
    # taming-transformers pads on the far sides only; its weights expect that.
    return conv(params, x, stride=2, padding=((0, 1), (0, 1)))


def _apply_up(layer: Layer, params: Params, x: Picture) -> Picture:
    return conv_of_doubled(params, x)


def _apply_pool(layer: Layer, params: Params, x: Picture) -> Picture:
    return rearrange(x, "b (y p) (x q) c -> b y x c (p q)", p=2, q=2).mean(-1)


def _apply_repeat(layer: Layer, params: Params, x: Picture) -> Picture:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _init_head(layer: Layer, key: Key[Array, ""]) -> Params:
    return {"norm": init_norm(layer.norm, layer.c_in), "conv": _init_unfold(layer, key)}


def head_features(layer: Layer, params: Params, x: Picture) -> Picture:
    """The input of a head's convolution."""
    return jax.nn.silu(NORMS[layer.norm](params["norm"], x))


def project_head(layer: Layer, params: Params, features: Picture) -> Picture:
    """The output of a head, from the input of its convolution."""
    return unfold(conv(params["conv"], features), layer.factor)


def _apply_head(layer: Layer, params: Params, x: Picture) -> Picture:
    return project_head(layer, params, head_features(layer, params, x))


def _init_block(layer: Layer, key: Key[Array, ""]) -> Params:
    keys = jax.random.split(key, 3)
    shortcut = {"shortcut": init_conv(keys[2], layer.c_in, layer.c_out, kernel=1)}
    return {
        "norm1": init_norm(layer.norm, layer.c_in),
        "conv1": init_conv(keys[0], layer.c_in, layer.c_out),
        "norm2": init_norm(layer.norm, layer.c_out),
        # Nearly the identity at first, so that depth costs nothing early.
        "conv2": init_conv(keys[1], layer.c_out, layer.c_out, gain=0.01),
        **(shortcut if layer.c_in != layer.c_out else {}),
    }


def _apply_block(layer: Layer, params: Params, x: Picture) -> Picture:
    norm = NORMS[layer.norm]
    hidden = conv(params["conv1"], jax.nn.silu(norm(params["norm1"], x)))
    hidden = conv(params["conv2"], jax.nn.silu(norm(params["norm2"], hidden)))
    return hidden + (conv(params["shortcut"], x) if "shortcut" in params else x)


def _init_attention(layer: Layer, key: Key[Array, ""]) -> Params:
    names = ("query", "key", "value", "out")
    keys = dict(zip(names, jax.random.split(key, 4), strict=True))
    gains = {name: 0.01 if name == "out" else 1.0 for name in names}
    return {
        "norm": init_norm(layer.norm, layer.c_in),
        **{n: init_conv(keys[n], layer.c_in, layer.c_out, 1, gains[n]) for n in names},
    }


def _apply_attention(layer: Layer, params: Params, x: Picture) -> Picture:
    normed = NORMS[layer.norm](params["norm"], x)
    query, key, value = (
        rearrange(conv(params[name], normed), "b y x c -> b (y x) c")
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bqc,bkc->bqk", query, key) * layer.c_in**-0.5
    mixed = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores, axis=-1), value)
    return x + conv(params["out"], mixed.reshape(x.shape))


KINDS: dict[str, Kind] = {
    "conv": Kind(_init_plain, lambda layer, params, x: conv(params, x)),
    "fold": Kind(_init_fold, _apply_fold),
    "unfold": Kind(_init_unfold, _apply_unfold),
    "down": Kind(_init_plain, _apply_down),
    "up": Kind(_init_plain, _apply_up),
    "pool": Kind(lambda layer, key: {}, _apply_pool),
    "repeat": Kind(lambda layer, key: {}, _apply_repeat),
    "block": Kind(_init_block, _apply_block),
    "attention": Kind(_init_attention, _apply_attention),
    "head": Kind(_init_head, _apply_head),
}


def init_plan(plan: tuple[Layer, ...], key: Key[Array, ""]) -> Params:
    """Name → random parameters of each layer that has any."""
    keys = jax.random.split(key, len(plan))
    params_of = {
        layer.name: KINDS[layer.kind].init(layer, k) for layer, k in zip(plan, keys, strict=True)
    }
    return {name: params for name, params in params_of.items() if params}


def apply_plan(plan: tuple[Layer, ...], params: Params, x: Picture) -> Picture:
    """x after all layers of the plan."""
    for layer in plan:
        x = KINDS[layer.kind].apply(layer, params.get(layer.name, {}), x)
    return x

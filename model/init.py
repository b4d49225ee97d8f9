"""Initial weights: the standard deviation of each kernel, as a table of gains.

DeepNet: Wang et al. 2022, arXiv:2203.00555, fig. 2; Sub-LN: Wang et al. 2022, arXiv:2210.06423,
fig. 2; PaLM: Chowdhery et al. 2022, arXiv:2204.02311, section 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from model.choices import Init
from model.config import ModelConfig

Branch = Literal["encoder", "decoder", "cross"]
"""The encoder's attention and feed-forward, the decoder's, or its cross-attention."""


@dataclass(frozen=True)
class Gains:
    """Factors on the kernels of values, attention outputs and feed-forward, by branch."""

    encoder: float = 1.0
    decoder: float = 1.0
    cross: float = 1.0


def _deepnet(n: int, m: int) -> Gains:
    decoder = (12 * m) ** -0.25
    return Gains(0.87 * (n**4 * m) ** -0.0625, decoder, decoder)


def _subln(n: int, m: int) -> Gains:
    return Gains(math.sqrt(math.log(3 * m) * math.log(2 * n) / 3), math.sqrt(math.log(3 * m)))


GAINS: dict[Init, Callable[[int, int], Gains]] = {
    "normal": lambda n, m: Gains(),
    "palm": lambda n, m: Gains(),
    "deepnet": _deepnet,
    "subln": _subln,
}
"""Gains by encoder depth n and decoder depth m."""


def branch_gain(config: ModelConfig, branch: Branch) -> float:
    """The factor on the kernels of values, attention outputs and feed-forward of a branch."""
    gains = GAINS[config.init](config.encoder_depth, config.decoder_depth)
    return getattr(gains, branch)


def residual_scale(config: ModelConfig, branch: Branch) -> float:
    """The factor on the residual stream before each sum: DeepNet's α, else 1."""
    if not config.deepnet_scaling:
        return 1.0
    n, m = config.encoder_depth, config.decoder_depth
    return 0.81 * (n**4 * m) ** 0.0625 if branch == "encoder" else (3 * m) ** 0.25


def init_kernel(
    d_in: int, d_out: int, config: ModelConfig, rngs: nnx.Rngs, gain: float = 1.0
) -> Float[Array, "d_in d_out"]:
    """The random kernel of a dense layer. With model.base_dim its standard deviation falls with the
    square root of the width (μP), as it does with palm in any case."""
    scaled = config.init_std * config.width_ratio**-0.5 * gain
    std = d_in**-0.5 if config.init == "palm" else scaled
    return std * jax.random.normal(rngs.params(), (d_in, d_out))


def init_table(rows: int, config: ModelConfig, rngs: nnx.Rngs) -> Float[Array, "rows d"]:
    """A random embedding table."""
    std = 1.0 if config.init == "palm" else config.init_std
    return std * jax.random.normal(rngs.params(), (rows, config.dim))

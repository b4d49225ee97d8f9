"""A patch discriminator, and its hinge losses.

It returns a logit for each patch; positive means real. There is no batch norm, so a picture's
logits depend on no other picture.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vqgan.config import DiscriminatorConfig
from vqgan.layers import Params, conv, fold, init_conv, init_norm, rms_norm

Logits = Float[Array, "b y x"]
_SLOPE = 0.2  # of the leaky rectifier, as in PatchGAN
_FOLDED = 2  # side of a level's kernel, in 2 × 2 squares of pixels


def init(config: DiscriminatorConfig, key: Key[Array, ""]) -> Params:
    """Random parameters: a convolution for each level, a norm from the second level on, and the
    convolution that gives the logits."""
    keys = jax.random.split(key, len(config.channels) + 1)
    params: Params = {}
    for level, (c_in, c_out) in enumerate(pairwise((3, *config.channels))):
        params[f"level_{level}"] = {
            "conv": init_conv(keys[level], 4 * c_in, c_out, _FOLDED),
            **({"norm": init_norm("rmsnorm", c_out)} if level else {}),
        }
    return {**params, "logit": init_conv(keys[-1], config.channels[-1], 1)}


def apply(config: DiscriminatorConfig, params: Params, pixels: Float[Array, "b Y X 3"]) -> Logits:
    """Logits of pictures in −1..1; y and x are their sides / 2^levels."""
    x = pixels
    for level in range(len(config.channels)):
        layer = params[f"level_{level}"]
        # PatchGAN's 4 × 4 convolution of stride 2, as one of 2 × 2 over folded squares: the
        # gradient of a strided convolution is slow on a CPU.
        folded = fold(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 2)
        x = conv(layer["conv"], folded, padding="VALID")
        x = jax.nn.leaky_relu(rms_norm(layer["norm"], x) if level else x, _SLOPE)
    return conv(params["logit"], x)[..., 0]


def hinge_loss(real: Logits, fake: Logits) -> Float[Array, ""]:
    """The discriminator's loss: 1 for logits of 0; 0 if all are beyond ±1 with the right sign. Lim
    & Ye 2017, arXiv:1705.02894."""
    return (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()) / 2


def generator_loss(fake: Logits) -> Float[Array, " b"]:
    """The autoencoder's loss for each reconstruction: minus its mean logit."""
    return -fake.mean((1, 2))


def share_right(real: Logits, fake: Logits) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(share of real patches classified as real, share of reconstructed ones as fake)."""
    return jnp.float32(real > 0).mean(), jnp.float32(fake < 0).mean()

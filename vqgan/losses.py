"""Losses of a reconstruction: weighted L1 and L2, edges, hue, structure, and LPIPS.

With only L1 and L2, rare hues become grey-brown and outlines soft, because most of a drawing is
white, black and skin. vqgan/adversarial.py adds a discriminator's term.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vqgan import metrics, perceptual
from vqgan.config import LossConfig

Picture = Float[Array, "b y x 3"]


def reconstruction_loss(
    pixels: Picture, reconstruction: Picture, config: LossConfig
) -> Float[Array, ""]:
    """The weighted sum of the terms, averaged over pictures in −1..1. Raises ValueError if
    loss.perceptual_weights is not a VGG-16."""
    residual = reconstruction - pixels
    weight = 1 + config.saturation * (pixels.max(-1, keepdims=True) - pixels.min(-1, keepdims=True))
    perceptual_term = jnp.zeros(())
    if config.perceptual:
        vgg = perceptual.open_vgg(config.perceptual_weights)
        perceptual_term = (
            config.perceptual * perceptual.distance(vgg, pixels, reconstruction).mean()
        )
    return (
        config.l1 * (weight * jnp.abs(residual)).mean()
        + config.l2 * (weight * jnp.square(residual)).mean()
        + config.edges * edge_loss(residual)
        + config.hue * hue_loss(residual)
        + config.structure * (1 - metrics.ssim(pixels, reconstruction).mean())
        + perceptual_term
    )


def edge_loss(residual: Picture) -> Float[Array, ""]:
    """Mean absolute gradient of the residual at full, half and quarter size, and its mean
    absolute value at the smaller two."""
    total = jnp.zeros(())
    for factor in (1, 2, 4):
        small = _pool(residual, factor)
        total += jnp.abs(jnp.diff(small, axis=1)).mean() + jnp.abs(jnp.diff(small, axis=2)).mean()
        total += jnp.abs(small).mean() if factor > 1 else 0.0
    return total


def hue_loss(residual: Picture) -> Float[Array, ""]:
    """Mean absolute error of red − green and green − blue at a quarter of the size."""
    return 2 * jnp.abs(jnp.diff(_pool(residual, 4), axis=-1)).mean()


def _pool(x: Picture, factor: int) -> Float[Array, "b _ _ 3"]:
    b, height, width, c = x.shape
    blocks = x.reshape(b, height // factor, factor, width // factor, factor, c)
    return blocks.mean((2, 4))

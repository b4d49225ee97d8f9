"""PSNR and SSIM of a reconstruction, one value per picture. The value of a set is the mean."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SSIM_WINDOW = 7
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601 weights of red, green and blue."""


def psnr(
    pixels: Float[Array, "b Y X 3"], reconstruction: Float[Array, "b Y X 3"]
) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB, over the three channels; pixels in −1..1."""
    error = jnp.square((pixels - reconstruction) / 2).mean((1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(
    pixels: Float[Array, "b Y X 3"], reconstruction: Float[Array, "b Y X 3"]
) -> Float[Array, " b"]:
    """Structural similarity of the grey pictures; pixels in −1..1. Wang et al. 2004.

    A 7 × 7 uniform window at every place where it fits, and unbiased (co)variances, as
    scikit-image computes it by default.
    """
    x, y = _grey(pixels), _grey(reconstruction)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_x = unbiased * (_window_mean(x * x) - mean_x * mean_x)
    variance_y = unbiased * (_window_mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2))


def _grey(pixels: Float[Array, "b Y X 3"]) -> Float[Array, "b Y X"]:
    return (pixels / 2 + 0.5) @ jnp.asarray(LUMA, pixels.dtype)


def _window_mean(x: Float[Array, "b Y X"]) -> Float[Array, "b y x"]:
    """The mean over the window at every position where it fits, as two banded matrix products."""
    rows, columns = (jnp.asarray(_band(side), x.dtype) for side in x.shape[1:])
    return jnp.einsum("yY,bYX,xX->byx", rows, x, columns)


def _band(side: int) -> np.ndarray:
    places = np.arange(side - SSIM_WINDOW + 1)[:, None]
    inside = (np.arange(side) >= places) & (np.arange(side) < places + SSIM_WINDOW)
    return inside / SSIM_WINDOW

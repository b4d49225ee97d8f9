"""Dynamic loss scaling for float16. Micikevicius et al. 2018, arXiv:1710.03740.

The loss is multiplied by a scale, so that small gradients do not underflow in float16. An update
whose gradients overflow is skipped and halves the scale; a window of good updates doubles it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool


class LossScale(NamedTuple):
    """The scale, and the number of good updates since it last changed."""

    scale: Array
    good_steps: Array


def init_loss_scale(scale: float = 2.0**15) -> LossScale:
    """The scale before the first update."""
    return LossScale(jnp.float32(scale), jnp.int32(0))


def adjust(loss_scale: LossScale, finite: Bool[Array, ""], window: int, floor: float) -> LossScale:
    """The scale after an update: halved, but not below `floor`, if its gradients were not finite;
    doubled after `window` good updates."""
    scale, good = loss_scale
    good = jnp.where(finite, good + 1, 0)
    grow = good >= window
    scale = jnp.where(finite, jnp.where(grow, scale * 2, scale), jnp.maximum(scale / 2, floor))
    return LossScale(scale, jnp.where(grow, 0, good))

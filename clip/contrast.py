"""CLIP's contrastive loss. Radford et al. 2021, arXiv:2103.00020, figure 3."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_SCALE = 100.0
"""The largest scale of the similarities."""


class Contrast(NamedTuple):
    """Loss and accuracy, as means over pairs of picture and caption."""

    loss: Float[Array, ""]
    right: Float[Array, ""]
    """The share of pictures whose own caption scores highest."""
    chance: Float[Array, ""]
    """The same share for guessing."""
    scale: Float[Array, ""]


def contrast(
    images: Float[Array, "b e"],
    texts: Float[Array, "b e"],
    log_scale: Float[Array, ""],
    text_tokens: Int[Array, "b t"],
) -> Contrast:
    """The mean of the cross-entropies over pictures and over captions. Equal captions share the
    target equally, because nothing distinguishes them."""
    scale = jnp.minimum(jnp.exp(log_scale), MAX_SCALE)
    logits = scale * images @ texts.T
    is_same = (text_tokens[:, None] == text_tokens[None]).all(-1)
    targets = is_same / is_same.sum(axis=1, keepdims=True)
    of_images = -(targets * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)
    of_texts = -(targets * jax.nn.log_softmax(logits.T, axis=1)).sum(axis=1)
    best = logits.argmax(axis=1)
    right = jnp.take_along_axis(is_same, best[:, None], axis=1).mean()
    return Contrast((of_images + of_texts).mean() / 2, right, is_same.mean(), scale)

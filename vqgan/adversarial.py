"""The game of the autoencoder and its discriminator (VQGAN; Esser et al. 2020, arXiv:2012.09841).

The discriminator's term is weighted, as in the paper, by a ratio of gradient norms at the decoder's
last kernel: the pixel terms' over the discriminator's. Here each picture has its own ratio, not one
for a batch, so that micro-batches and devices make no difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vqgan import discriminator
from vqgan.autoencoder import Autoencoder
from vqgan.config import DiscriminatorConfig, LossConfig
from vqgan.layers import Params
from vqgan.losses import reconstruction_loss

NAME = "discriminator"
"""Name of the player."""
_EPSILON = 1e-4  # added to the divisor, as in taming-transformers
_MODEL = "model"  # name of the autoencoder's parameters among a loss context's players

Picture = Float[Array, "b Y X 3"]
Feature = Float[Array, "b _ _ _"]
Reconstruct = Callable[[Params, Picture, Any], Picture]
"""(parameters of the autoencoder, pictures in −1..1, context) → reconstructions."""


class Term(NamedTuple):
    """The discriminator's part of the autoencoder's objective."""

    value: Float[Array, ""]
    weight: Float[Array, ""]
    """Mean of the pictures' weights."""
    loss: Float[Array, ""]
    """Minus the mean logit of the reconstructions; NaN before the term begins."""


@dataclass(frozen=True)
class Opponent:
    """The autoencoder's term against a discriminator: pure functions."""

    autoencoder: Autoencoder
    config: LossConfig
    layout: DiscriminatorConfig

    def term(
        self,
        params: Params,
        players: Any,
        is_on: Bool[Array, ""],
        pixels: Picture,
        features: Feature,
        reconstruction: Picture,
    ) -> Term:
        """The term for reconstructions that are `autoencoder.project(params, features)`. Until
        `is_on` it is 0, and the discriminator is not run.

        Its gradient is computed here, for its norm, and attached to the reconstruction: automatic
        differentiation would run the discriminator backwards a second time.
        """
        fixed = jax.lax.stop_gradient
        given = fixed((params, players[NAME], pixels, features, reconstruction))
        value, weight, loss, direction = jax.lax.cond(is_on, self._on, self._off, *given)
        attached = (direction * (reconstruction - fixed(reconstruction))).sum()
        return Term(value + attached, weight, loss)

    def _on(
        self, params: Params, judge: Params, pixels: Picture, features: Feature, painted: Picture
    ) -> tuple[Array, Array, Array, Array]:
        """Value, mean weight, loss, and gradient with respect to the reconstruction."""
        # Means over pictures are computed as sums, so that an entry of a gradient depends on one
        # picture only.
        on_pixels = lambda x: len(pixels) * reconstruction_loss(pixels, x, self.config)  # noqa: E731

        def on_patches(x: Picture) -> tuple[Array, Array]:
            losses = discriminator.generator_loss(discriminator.apply(self.layout, judge, x))
            return losses.sum(), losses

        pull = jax.grad(on_pixels)(painted)
        push, losses = jax.grad(on_patches, has_aux=True)(painted)
        norms = partial(kernel_norms, self.autoencoder, params, features)
        weights = adaptive_weights(norms(pull), norms(push), self.config)
        direction = weights[:, None, None, None] * push / len(pixels)
        return (weights * losses).mean(), weights.mean(), losses.mean(), direction

    def _off(
        self, params: Params, judge: Params, pixels: Picture, features: Feature, painted: Picture
    ) -> tuple[Array, Array, Array, Array]:
        zero = jnp.float32(0.0)
        return zero, zero, jnp.float32(jnp.nan), jnp.zeros_like(painted)


def adaptive_weights(
    on_pixels: Float[Array, " b"], on_patches: Float[Array, " b"], config: LossConfig
) -> Float[Array, " b"]:
    """Weights of the pictures' terms, from the norms of the two gradients."""
    ratios = on_pixels / (on_patches + _EPSILON)
    return config.adversarial * jnp.clip(ratios, 0.0, config.adversarial_limit)


def kernel_norms(
    autoencoder: Autoencoder, params: Params, features: Feature, gradient: Picture
) -> Float[Array, " b"]:
    """Norm, for each picture, of the gradient of the decoder's last kernel, from the gradient of
    the reconstruction."""
    head = params["decoder"]["head"]

    def one(features: Array, gradient: Array) -> Array:
        def paint(kernel: Array) -> Array:
            conv = {**head["conv"], "kernel": kernel}
            decoder = {**params["decoder"], "head": {**head, "conv": conv}}
            return autoencoder.project({**params, "decoder": decoder}, features[None])

        _, back = jax.vjp(paint, head["conv"]["kernel"])
        return jnp.linalg.norm(back(gradient[None])[0].ravel())

    return jax.vmap(one)(features, gradient)


def make_discriminator_loss(
    layout: DiscriminatorConfig,
    reconstruct: Reconstruct,
    to_float: Callable[[Array], Array],
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The discriminator's loss of a batch {"pixels" uint8}, with the shares of patches that it
    judges correctly. It sees the autoencoder as it was before the update."""

    def loss(
        params: Params, batch: dict[str, Array], keys: Key[Array, " b"], context: Any
    ) -> tuple[Array, dict[str, Array]]:
        pixels = to_float(batch["pixels"])
        painted = reconstruct(context.players[_MODEL], pixels, context)
        real, fake = (discriminator.apply(layout, params, x) for x in (pixels, painted))
        on_real, on_fake = discriminator.share_right(real, fake)
        told = {"right_on_real": on_real, "right_on_fake": on_fake}
        return discriminator.hinge_loss(real, fake), told

    return loss

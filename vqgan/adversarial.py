"""The adversarial loss of autoencoder and discriminator (VQGAN; Esser et al. 2020,
arXiv:2012.09841).

As in the paper, the discriminator's term is weighted by a ratio of gradient norms at the decoder's
last kernel: the reconstruction loss's over the adversarial loss's. Here each picture has its own
ratio, so that the result does not depend on micro-batches or devices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from common.batch import PictureBatch
from vqgan import discriminator
from vqgan.autoencoder import Autoencoder
from vqgan.config import DiscriminatorConfig, LossConfig
from vqgan.layers import Params
from vqgan.losses import reconstruction_loss

NAME = "discriminator"
"""Name of the player."""
_EPSILON = 1e-4  # added to the divisor, as in taming-transformers
_MODEL = "model"  # key of the autoencoder's parameters in a loss context's players


@runtime_checkable
class Context(Protocol):
    """The part of a LossContext (training/update/loss.py) that these losses read."""

    @property
    def step(self) -> Int[Array, ""]: ...
    @property
    def players(self) -> Mapping[str, PyTree]: ...


Picture = Float[Array, "b Y X 3"]
Feature = Float[Array, "b _ _ _"]
Reconstruct = Callable[[Params, Picture, Context], Picture]
"""(parameters of the autoencoder, pictures in −1..1, context) → reconstructions."""


class Term(NamedTuple):
    """The adversarial term of the autoencoder's loss."""

    value: Float[Array, ""]
    weight: Float[Array, ""]
    """The mean of the pictures' weights."""
    loss: Float[Array, ""]
    """Minus the mean logit of the reconstructions; NaN before the term begins."""


@dataclass(frozen=True)
class Opponent:
    """Computes the adversarial term of the autoencoder's loss."""

    autoencoder: Autoencoder
    config: LossConfig
    layout: DiscriminatorConfig

    def term(
        self,
        params: Params,
        players: Mapping[str, PyTree],
        is_on: Bool[Array, ""],
        pixels: Picture,
        features: Feature,
        reconstruction: Picture,
    ) -> Term:
        """The term for `reconstruction` = autoencoder.project(params, features). While `is_on` is
        False it is 0, and the discriminator does not run.

        The gradient is computed here, because its norm is needed, and attached to the
        reconstruction. Otherwise differentiation would run the discriminator's backward pass twice.
        """
        fixed = jax.lax.stop_gradient
        arguments = fixed((params, players[NAME], pixels, features, reconstruction))
        value, weight, loss, direction = jax.lax.cond(is_on, self._on, self._off, *arguments)
        attached = (direction * (reconstruction - fixed(reconstruction))).sum()
        return Term(value + attached, weight, loss)

    def _on(
        self,
        params: Params,
        judge: Params,
        pixels: Picture,
        features: Feature,
        reconstruction: Picture,
    ) -> tuple[Array, Array, Array, Array]:
        """(value, mean weight, loss, gradient with respect to the reconstruction)."""

        # Sums over pictures instead of means: then each picture's gradient depends only on that
        # picture.
        def on_pixels(x: Picture) -> Array:
            return len(pixels) * reconstruction_loss(pixels, x, self.config)

        def on_patches(x: Picture) -> tuple[Array, Array]:
            losses = discriminator.generator_loss(discriminator.apply(self.layout, judge, x))
            return losses.sum(), losses

        pull = jax.grad(on_pixels)(reconstruction)
        push, losses = jax.grad(on_patches, has_aux=True)(reconstruction)
        norms = partial(kernel_norms, self.autoencoder, params, features)
        weights = adaptive_weights(norms(pull), norms(push), self.config)
        direction = weights[:, None, None, None] * push / len(pixels)
        return (weights * losses).mean(), weights.mean(), losses.mean(), direction

    def _off(self, *arguments: PyTree) -> tuple[Array, Array, Array, Array]:
        zero, reconstruction = jnp.float32(0.0), arguments[-1]
        return zero, zero, jnp.float32(jnp.nan), jnp.zeros_like(reconstruction)


def adaptive_weights(
    on_pixels: Float[Array, " b"], on_patches: Float[Array, " b"], config: LossConfig
) -> Float[Array, " b"]:
    """The weight of each picture's term, from the norms of its two gradients."""
    ratios = on_pixels / (on_patches + _EPSILON)
    return config.adversarial * jnp.clip(ratios, 0.0, config.adversarial_limit)


def kernel_norms(
    autoencoder: Autoencoder, params: Params, features: Feature, gradient: Picture
) -> Float[Array, " b"]:
    """The norm of each picture's gradient with respect to the decoder's last kernel, from its
    gradient with respect to the reconstruction."""
    head = params["decoder"]["head"]

    def kernel_norm(features: Array, gradient: Array) -> Array:
        def project(kernel: Array) -> Array:
            conv = {**head["conv"], "kernel": kernel}
            decoder = {**params["decoder"], "head": {**head, "conv": conv}}
            return autoencoder.project({**params, "decoder": decoder}, features[None])

        _, back = jax.vjp(project, head["conv"]["kernel"])
        return jnp.linalg.norm(back(gradient[None])[0].ravel())

    return jax.vmap(kernel_norm)(features, gradient)


def make_discriminator_loss(
    layout: DiscriminatorConfig,
    reconstruct: Reconstruct,
    to_float: Callable[[Array], Array],
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The discriminator's loss, a function like the model's loss.
    Its metrics are the shares of patches that it classifies correctly. It gets the autoencoder from
    before the update."""

    def loss(
        params: Params, batch: PictureBatch[Array], keys: Key[Array, " b"], context: Context
    ) -> tuple[Array, dict[str, Array]]:
        pixels = to_float(batch["pixels"])
        reconstruction = reconstruct(context.players[_MODEL], pixels, context)
        real, fake = (discriminator.apply(layout, params, x) for x in (pixels, reconstruction))
        on_real, on_fake = discriminator.share_right(real, fake)
        shares = {"right_on_real": on_real, "right_on_fake": on_fake}
        return discriminator.hinge_loss(real, fake), shares

    return loss

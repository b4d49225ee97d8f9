"""The VQGAN: an autoencoder whose latents are codes, from pictures to image tokens and back.

A layout is a list of layers, which `encoder_plan` and `decoder_plan` return. So the same code runs
the small default layout and taming-transformers' f16 (Esser et al. 2020, arXiv:2012.09841).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from model.layers import first_largest
from vqgan import quantizer
from vqgan.config import Resampling, VQGANConfig
from vqgan.layers import (
    Layer,
    Params,
    apply_plan,
    conv,
    fold,
    head_features,
    init_conv,
    init_plan,
    project_head,
)
from vqgan.refining import refine

Arrays = Array | np.ndarray
PRECISION = "float32"
"""Precision of products in `encode` and `decode`. With an accelerator's default precision, records
would hold other tokens than those made on a CPU."""


class Resampler(NamedTuple):
    """The layers between two levels."""

    down: str
    up: str
    changes_channels: bool
    """True if they change the number of channels; otherwise the next block does."""
    kernel: int
    factor: int


RESAMPLERS: dict[Resampling, Resampler] = {
    "fold": Resampler("fold", "unfold", changes_channels=True, kernel=1, factor=2),
    "conv": Resampler("down", "up", changes_channels=False, kernel=3, factor=1),
    "pool": Resampler("pool", "repeat", changes_channels=False, kernel=1, factor=1),
}


def encoder_plan(config: VQGANConfig) -> tuple[Layer, ...]:
    """The encoder's layers, from pixels to latents before quantisation."""
    edge, resampler = config.edge_kernel, RESAMPLERS[config.resampling]
    width = config.stem_channels
    plan = [Layer("stem", "fold", 3, width, edge, config.patch_size)]
    for level, channels in enumerate(config.channels):
        if level:
            after = channels if resampler.changes_channels else width
            kernel, factor = resampler.kernel, resampler.factor
            plan.append(Layer(f"down_{level}", resampler.down, width, after, kernel, factor))
            width = after
        plan += _level(config, level, width, config.encoder_blocks[level])
        width = channels
    plan += _middle(config)
    latent = config.latent_channels
    plan.append(Layer("head", "head", width, latent, edge, norm=config.norm))
    plan.append(Layer("to_code", "conv", latent, config.code_dim, kernel=1))
    return tuple(plan)


def decoder_plan(config: VQGANConfig) -> tuple[Layer, ...]:
    """The decoder's layers, from codes to pixels."""
    edge, resampler = config.edge_kernel, RESAMPLERS[config.resampling]
    latent, width = config.latent_channels, config.channels[-1]
    plan = [
        Layer("from_code", "conv", config.code_dim, latent, kernel=1),
        Layer("stem", "conv", latent, width, edge),
        *_middle(config),
    ]
    for level in reversed(range(len(config.channels))):
        plan += _level(config, level, width, config.decoder_blocks[level])
        width = config.channels[level]
        if level:
            after = config.channels[level - 1] if resampler.changes_channels else width
            kernel, factor = resampler.kernel, resampler.factor
            plan.append(Layer(f"up_{level}", resampler.up, width, after, kernel, factor))
            width = after
    plan.append(Layer("head", "head", width, 3, edge, config.patch_size, config.norm))
    return tuple(plan)


def _level(config: VQGANConfig, level: int, width: int, blocks: int) -> Iterator[Layer]:
    """The residual blocks of one level, each followed by attention if attention_resolutions has
    this resolution."""
    channels = config.channels[level]
    side = config.image_size // config.patch_size // 2**level
    for i in range(blocks):
        yield Layer(f"block_{level}_{i}", "block", width, channels, norm=config.norm)
        width = channels
        if side in config.attention_resolutions:
            yield Layer(f"attention_{level}_{i}", "attention", width, width, norm=config.norm)


def _middle(config: VQGANConfig) -> Iterator[Layer]:
    width, kinds = config.channels[-1], ("block", "attention", "block")
    for i, kind in enumerate(kinds if config.middle == "attention" else ()):
        yield Layer(f"middle_{i}", kind, width, width, norm=config.norm)


@dataclass(frozen=True)
class Autoencoder:
    """Pure functions of arrays and parameters {"encoder", "decoder", "codebook"}. With model.lookup
    classifier, "classifier" is added; with fsq, "codebook" is missing."""

    config: VQGANConfig

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters. Training later replaces the codebook by k-means over latents."""
        encoder_key, decoder_key, code_key = jax.random.split(key, 3)
        shape = (self.config.codebook_size, self.config.code_dim)
        params: Params = {
            "encoder": init_plan(encoder_plan(self.config), encoder_key),
            "decoder": init_plan(decoder_plan(self.config), decoder_key),
        }
        if self.config.lookup == "fsq":
            return params
        params["codebook"] = self.place(jax.random.normal(code_key, shape))
        if self.config.lookup == "classifier":
            params["classifier"] = init_conv(code_key, *shape[::-1], kernel=1)
        return params

    def place(self, latents: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Codes or latents in the space where they are compared: on the unit sphere with
        model.normalize_codes, in the box of the grid with fsq."""
        if self.config.fsq_levels:
            return quantizer.bound(latents, self.config.fsq_levels)
        return quantizer.normalize(latents) if self.config.normalize_codes else latents

    def codes(self, params: Params) -> Float[Array, "k c"]:
        """The codebook, in the space where codes are compared."""
        if self.config.fsq_levels:
            return quantizer.fsq_grid(self.config.fsq_levels)
        return self.place(jnp.asarray(params["codebook"]))

    def latents(self, params: Params, pixels: Float[Arrays, "b Y X 3"]) -> Float[Array, "b y x c"]:
        """The encoder's output before quantisation, for pixels in −1..1."""
        arguments = _as_jax((params["encoder"], pixels))
        return self.place(apply_plan(encoder_plan(self.config), *arguments))

    def decode_latents(
        self, params: Params, latents: Float[Arrays, "b y x c"]
    ) -> Float[Array, "b Y X 3"]:
        """The decoder's output for latents, quantised or not: float32, not clipped."""
        return self.project(params, self.features(params, latents))

    def features(
        self, params: Params, latents: Float[Arrays, "b y x c"]
    ) -> Float[Array, "b _ _ _"]:
        """The input of the decoder's last convolution."""
        # Codes of unit length reach the decoder with unit variance.
        on_sphere = self.config.normalize_codes and not self.config.fsq_levels
        gain = self.config.code_dim**0.5 if on_sphere else 1.0
        decoder, scaled = _as_jax((params["decoder"], gain * latents))
        *trunk, head = decoder_plan(self.config)
        x = apply_plan(tuple(trunk), decoder, scaled)
        return head_features(head, decoder[head.name], x)

    def project(self, params: Params, features: Float[Array, "b _ _ _"]) -> Float[Array, "b Y X 3"]:
        """The output of the decoder's last convolution, with kernel decoder/head/conv/kernel."""
        head = decoder_plan(self.config)[-1]
        return project_head(head, _as_jax(params["decoder"][head.name]), features)

    def encode(self, params: Params, pixels: Float[Arrays, "b Y X 3"]) -> Int[Array, "b n"]:
        """The image tokens of pictures with pixels in −1..1, row-major."""
        side = self.config.image_size
        if pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"pictures are {pixels.shape[1:]}, this VQGAN reads {(side, side, 3)}")
        with jax.default_matmul_precision(PRECISION):
            latents = self.latents(params, pixels)
            if self.config.tried_codes > 1:
                tokens = self._refine(params, pixels, latents)
            else:
                tokens = self.look_up(params, latents)
        return tokens.reshape(len(pixels), -1)

    def _refine(
        self, params: Params, pixels: Float[Arrays, "b Y X 3"], latents: Float[Array, "b y x c"]
    ) -> Int[Array, "b y x"]:
        """The nearest codes that reconstruct best, by squared error of clipped pixels."""
        real, codes = _as_jax((pixels, self.codes(params)))

        def error(tokens: Int[Array, "b y x"]) -> Float[Array, "b y x"]:
            decoded = jnp.clip(self.decode_latents(params, codes[tokens]), -1.0, 1.0)
            return fold(jnp.square(decoded - real), self.config.factor).sum(-1)

        return refine(quantizer.nearest_few(codes, latents, self.config.tried_codes), error)

    def look_up(self, params: Params, latents: Float[Array, "b y x c"]) -> Int[Array, "b y x"]:
        """The index of the code of each latent."""
        if self.config.lookup == "classifier":
            return first_largest(conv(_as_jax(params["classifier"]), latents))
        return quantizer.nearest(self.codes(params), latents)

    def decode(self, params: Params, image_tokens: Int[Arrays, "b n"]) -> Float[Array, "b Y X 3"]:
        """The pictures of image tokens, float32. Pixels may exceed −1..1; the caller clips them.

        Any square number of tokens is valid, because all layers are convolutions or attention.
        Tokens beyond the codebook become its last code: a model's head may have more classes than
        there are codes.
        """
        side = math.isqrt(image_tokens.shape[1])
        tokens = jnp.minimum(image_tokens, self.config.codebook_size - 1)
        codes = self.codes(params)[tokens].reshape(-1, side, side, self.config.code_dim)
        with jax.default_matmul_precision(PRECISION):
            return self.decode_latents(params, codes)


def _as_jax(tree: PyTree) -> PyTree:
    """The tree with NumPy arrays as jax arrays."""
    return jax.tree.map(jnp.asarray, tree)


def build(config: VQGANConfig) -> Autoencoder:
    """The autoencoder of a configuration."""
    return Autoencoder(config)

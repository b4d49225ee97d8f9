"""The smallest models with all parts, and their programs, compiled once per test worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import ModelConfig
from model.transformer import Transformer, build
from vqgan import autoencoder
from vqgan.config import VQGANConfig

TINY = ModelConfig(
    dim=16,
    encoder_depth=2,
    decoder_depth=2,
    num_heads=2,
    mlp_dim=24,
    text_vocab_size=32,
    text_length=6,
    image_vocab_size=20,
    grid_size=3,
)

TINY_VQGAN = VQGANConfig(
    image_size=16,
    stem_channels=8,
    channels=(8, 16),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    latent_channels=4,
    code_dim=4,
    codebook_size=32,
)
"""16 × 16 pixels, 2 × 2 tokens, 32 codes."""

ONE_LEVEL_VQGAN = VQGANConfig(
    image_size=8,
    channels=(8,),
    stem_channels=8,
    encoder_blocks=(1,),
    decoder_blocks=(1,),
    latent_channels=4,
    code_dim=4,
    codebook_size=32,
)
"""8 × 8 pixels, 2 × 2 tokens, 32 codes."""


def _draw(words: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(words.tolist()).standard_normal(shape, np.float32)


def _normal(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """`jax.random.normal` with NumPy's numbers, also under vmap: of a stack of keys."""

    @jax.custom_batching.custom_vmap
    def draw(words: jax.Array) -> jax.Array:
        return jnp.zeros(shape)  # traced for its shape, and never run

    @draw.def_vmap
    def draw_stack(size: int, is_batched: list[bool], words: jax.Array) -> tuple[jax.Array, bool]:
        return jnp.asarray(np.stack([_draw(row, shape) for row in np.asarray(words)])), True

    words = jax.random.key_data(key)
    is_known = not isinstance(words, jax.core.Tracer)
    return jnp.asarray(_draw(np.asarray(words), shape)) if is_known else draw(words)


@contextmanager
def numpy_draws() -> Iterator[None]:
    """Random normal numbers are drawn with NumPy: jax compiles a program for each shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "normal", _normal)
        yield


@cache
def first_params(config: ModelConfig, seed: int = 0) -> Any:
    """The float32 parameters of a model before any update. Callers must not donate them.

    Without jit, because tiny models have arrays of the same few shapes: the second model costs 0.2
    seconds, and a program of its own would cost 2.
    """
    with numpy_draws():
        return build(config).init(jax.random.key(seed))


def drawn(config: ModelConfig) -> Callable[[jax.Array], Any]:
    """An `init` that returns `first_params` for any key. A program that draws all parameters
    itself takes two seconds to compile, in each test that makes a state."""
    params = first_params(config)
    return lambda key: params


@cache
def first_vqgan(config: VQGANConfig, seed: int = 0) -> Any:
    """The parameters of a VQGAN before any update, as `first_params`."""
    with numpy_draws():
        return autoencoder.build(config).init(jax.random.key(seed))


@cache
def full_pass(model: Transformer) -> Callable[..., jax.Array]:
    """`model.apply`, compiled once for all tests that call it with the same shapes."""
    return jax.jit(model.apply)

"""CLIP: the similarity of a picture and a text. Radford et al. 2021, arXiv:2103.00020.

`load(folder)` reads published weights. A `Clip` maps pixels and text tokens to unit-length features
whose dot product is the similarity.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from clip.weights import ClipConfig, TowerConfig, read_config, read_params
from model.layers import ACTIVATIONS, along_last, layer_norm

Params = dict[str, Any]
AnyArray = Array | np.ndarray

PRECISION = "float32"
"""Precision of products, so that scores are the same on every device."""


class Norm(nnx.Module):
    """A layer norm."""

    def __init__(self, config: TowerConfig) -> None:
        self.epsilon = config.epsilon
        self.scale = nnx.Param(jnp.ones((config.dim,)))
        self.bias = nnx.Param(jnp.zeros((config.dim,)))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class Layer(nnx.Module):
    """One layer: self-attention, then feed-forward, each after a norm."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs) -> None:
        self.num_heads = config.num_heads
        self.activation = ACTIVATIONS[config.activation]
        self.norm_attention = Norm(config)
        self.q = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.k = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.v = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.out = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.norm_mlp = Norm(config)
        self.up = nnx.Linear(config.dim, config.mlp_dim, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, config.dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b q d"], mask: Bool[Array, "b 1 q q"] | None
    ) -> Float[Array, "b q d"]:
        h = self.norm_attention(x)
        q, k, v = (
            rearrange(linear(h), "b q (h e) -> b q h e", h=self.num_heads)
            for linear in (self.q, self.k, self.v)
        )
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask)
        x = x + self.out(rearrange(mixed, "b q h e -> b q (h e)"))
        return x + self.down(self.activation(self.up(self.norm_mlp(x))))


def _stack(config: TowerConfig, rngs: nnx.Rngs) -> nnx.Module:
    """A tower's layers as one module, with parameters stacked along a first axis."""
    return nnx.vmap(lambda r: Layer(config, r))(rngs.split(config.depth))


def _through(
    stack: nnx.Module, x: Float[Array, "b q d"], mask: Bool[Array, "b 1 q q"] | None
) -> Float[Array, "b q d"]:
    graph, stacked = nnx.split(stack)

    def body(x: Array, layer: object) -> tuple[Array, None]:
        return nnx.merge(graph, layer)(x, mask), None

    return jax.lax.scan(body, x, stacked)[0]


def _table(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
    return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))


class TextTower(nnx.Module):
    """A causal transformer. Its output at the end token is the text's feature vector."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs) -> None:
        self.end_id = config.end_id
        self.tokens = _table(rngs, config.text_vocab_size, config.text.dim)
        self.positions = _table(rngs, config.text_length, config.text.dim)
        self.layers = _stack(config.text, rngs)
        self.norm = Norm(config.text)
        self.project = nnx.Linear(config.text.dim, config.feature_dim, use_bias=False, rngs=rngs)

    def __call__(
        self, text_tokens: Int[Array, "b t"], text_mask: Bool[Array, "b t"]
    ) -> Float[Array, "b e"]:
        length = text_tokens.shape[1]
        x = self.tokens[...][text_tokens] + self.positions[...][None, :length]
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        x = self.norm(_through(self.layers, x, causal & text_mask[:, None, None, :]))
        ranks = text_tokens if self.end_id is None else text_tokens == self.end_id
        return self.project(x[jnp.arange(len(x)), ranks.argmax(axis=1)])


class ImageTower(nnx.Module):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929). Its output at the class
    token, before the patches, is the picture's feature vector."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs) -> None:
        dim, patch, grid = config.image.dim, config.patch_size, config.image_size
        self.patches = nnx.Conv(
            3, dim, (patch, patch), (patch, patch), padding="VALID", use_bias=False, rngs=rngs
        )
        self.class_token = _table(rngs, dim)
        self.positions = _table(rngs, (grid // patch) ** 2 + 1, dim)
        self.norm_before = Norm(config.image)
        self.layers = _stack(config.image, rngs)
        self.norm = Norm(config.image)
        self.project = nnx.Linear(dim, config.feature_dim, use_bias=False, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b y x 3"]) -> Float[Array, "b e"]:
        patches = rearrange(self.patches(pixels), "b y x d -> b (y x) d")
        first = jnp.broadcast_to(self.class_token[...], (len(patches), 1, patches.shape[-1]))
        x = jnp.concatenate([first, patches], axis=1) + self.positions[...][None]
        x = _through(self.layers, self.norm_before(x), None)
        return self.project(self.norm(x[:, 0]))


class Network(nnx.Module):
    """Both towers, and their projections."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs) -> None:
        self.text = TextTower(config, rngs)
        self.image = ImageTower(config, rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))


@functools.cache
def structure(config: ClipConfig) -> tuple[nnx.GraphDef[Network], Params]:
    """(the network's graph without arrays, the shapes of its parameters), without memory."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Network(config, nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def fit_to_square(pixels: Float[Array, "b y x 3"], size: int) -> Float[Array, "b s s 3"]:
    """The central square of pictures, `size` pixels wide, with CLIP's preprocessing: the shorter
    side is resized to `size` by bicubic interpolation, then the picture is cropped. Values are
    clipped, as in 8-bit pictures."""
    b, height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter
    resized = jax.image.resize(pixels, (b, height, width, 3), "cubic", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return jnp.clip(resized[:, top : top + size, left : left + size], -1, 1)


def _unit(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def _image_features(
    config: ClipConfig, params: Params, pixels: Float[Array, "b y x 3"]
) -> Float[Array, "b e"]:
    square = fit_to_square(pixels.astype(jnp.float32), config.image_size)
    mean, std = (along_last(jnp.array(v), square) for v in (config.pixel_mean, config.pixel_std))
    with jax.default_matmul_precision(PRECISION):
        network = nnx.merge(structure(config)[0], params)
        return _unit(network.image(((square + 1) / 2 - mean) / std))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(
    config: ClipConfig,
    params: Params,
    text_tokens: Int[Array, "b t"],
    text_mask: Bool[Array, "b t"],
) -> Float[Array, "b e"]:
    with jax.default_matmul_precision(PRECISION):
        return _unit(nnx.merge(structure(config)[0], params).text(text_tokens, text_mask))


@dataclass(frozen=True)
class Clip:
    """A CLIP with its parameters. Each shape of the arguments is compiled once."""

    config: ClipConfig
    params: Params

    @property
    def scale(self) -> float:
        """The scale of the similarities: 100 in most published weights."""
        return float(np.exp(self.params["logit_scale"]))

    def image_features(self, pixels: Float[AnyArray, "b y x 3"]) -> Float[Array, "b e"]:
        """Unit-length features. Pictures of another size than the model's are resized."""
        is_float = jnp.issubdtype(pixels.dtype, jnp.floating)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or not is_float:
            raise ValueError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}; CLIP takes floats in -1..1 of "
                f"shape [batch, y, x, 3] (from 8 bits: pictures / 127.5 - 1)"
            )
        return _image_features(self.config, self.params, jnp.asarray(pixels))

    def text_features(
        self,
        text_tokens: Int[AnyArray, "b t"],
        text_mask: Bool[AnyArray, "b t"] | Int[AnyArray, "b t"] | None = None,
    ) -> Float[Array, "b e"]:
        """Unit-length features. Each text must hold the end token, because its output is used."""
        self._check_text(text_tokens)
        tokens = jnp.asarray(text_tokens)
        mask = jnp.ones(tokens.shape, bool) if text_mask is None else jnp.asarray(text_mask, bool)
        return _text_features(self.config, self.params, tokens, mask)

    def _check_text(self, text_tokens: AnyArray) -> None:
        length, vocab_size = self.config.text_length, self.config.text_vocab_size
        if text_tokens.shape[1] > length:
            raise ValueError(
                f"texts of {text_tokens.shape[1]} tokens are longer than the {length} that this "
                f"CLIP has positions for; cut them in front of the end token"
            )
        if isinstance(text_tokens, jax.core.Tracer):
            return
        ids = np.asarray(text_tokens)  # jax would clamp an index in silence
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(
                f"text tokens run from {ids.min()} to {ids.max()}, but this CLIP knows 0 to "
                f"{vocab_size - 1}; use the tokenizer that it was trained with"
            )


def load(folder: str | Path) -> Clip:
    """The CLIP in a folder of transformers' CLIPModel: config.json, model.safetensors (or its
    parts) and, if there is one, preprocessor_config.json.

    Raises:
        ValueError: a file is missing or damaged, or the weights do not fit the configuration.
    """
    config = read_config(Path(folder))
    params = read_params(Path(folder), structure(config)[1])
    return Clip(config, jax.tree.map(jnp.asarray, params))

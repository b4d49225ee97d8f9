"""Which words of a prompt each part of a drawn picture depends on: for the notebooks.

Each token of the text is hidden in turn. Where the picture's tokens become less likely without it,
it was listened to. Attention weights say where a model looks, this says what it takes from there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from drawing import Drawer
from filling import batches_of
from model.transformer import Params, Transformer

DIM = 0.2
"""Brightness of the parts of a picture that do not depend on a word at all."""
ROWS = 8
"""Texts that are read at a time."""


def influence(
    model: Transformer,
    params: Params,
    drawer: Drawer,
    prompt: str,
    image_tokens: Int[np.ndarray, " n"],
) -> tuple[list[str], Float[np.ndarray, "m y x"]]:
    """The prompt's words, and for each word and image token by how many nats the token is more
    likely with the word than without it. Words are what stands between spaces; a word that is cut
    off has no influence."""
    words = prompt.split()
    ends = [len(_tokens(drawer, " ".join(words[: i + 1]))) for i in range(len(words))]
    text, mask, _ = drawer.tokenizer.encode([prompt], drawer.model.text_length)
    masks = np.repeat(mask, 1 + len(words), axis=0)
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), 1):
        masks[row, start:end] = False
    likely = _likelihoods(model, params, np.repeat(text, len(masks), axis=0), masks, image_tokens)
    side = drawer.model.grid_size
    return words, (likely[:1] - likely[1:]).reshape(-1, side, side)


def _tokens(drawer: Drawer, text: str) -> list[int]:
    """The ids of a text in front of its end token."""
    row, mask, _ = drawer.tokenizer.encode([text], drawer.model.text_length)
    return row[mask].tolist()[:-1]


def _likelihoods(
    model: Transformer,
    params: Params,
    text: Int[np.ndarray, "m t"],
    masks: Bool[np.ndarray, "m t"],
    image_tokens: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "m n"]:
    """The logarithm of each image token's probability, given each of the texts."""
    tokens = jnp.asarray(image_tokens, jnp.int32)
    inputs = jnp.concatenate([jnp.array([model.decoder_start_token_id]), tokens[:-1]])

    @jax.jit
    def read(params: Params, text: Array, mask: Array) -> Array:
        logits = model.apply(params, text, mask, jnp.tile(inputs[None], (len(text), 1)))
        chosen = jnp.tile(tokens[None, :, None], (len(text), 1, 1))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]

    found = [
        np.asarray(read(params, text[rows], masks[rows]))[:count]
        for rows, count in batches_of(ROWS, len(text))
    ]
    return np.concatenate(found)


def light_up(
    picture: UInt8[np.ndarray, "y x 3"], shares: Float[np.ndarray, "a b"], most: float
) -> UInt8[np.ndarray, "y x 3"]:
    """The picture, bright where a word's influence is `most` nats or more, dim where it is none."""
    side = len(picture) // len(shares)
    weights = np.clip(shares / max(most, 1e-6), 0, 1).repeat(side, 0).repeat(side, 1)
    return (picture * (DIM + (1 - DIM) * weights[..., None])).astype(np.uint8)

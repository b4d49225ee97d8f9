"""The influence of each word of a prompt on each part of a drawn picture, for the notebooks.

Each word is masked in turn. Image tokens that become less likely without it depend on it. Attention
weights show where a model looks; this shows what it uses.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from common.filling import batches_of
from drawing.drawer import Drawer
from model.transformer import Params, Transformer

DIM = 0.2
"""Brightness of the parts of a picture that do not depend on the word."""
ROWS = 8
"""Texts per call of the model."""


def influence(
    model: Transformer,
    params: Params,
    drawer: Drawer,
    prompt: str,
    image_tokens: Int[np.ndarray, " n"],
) -> tuple[list[str], Float[np.ndarray, "m y x"]]:
    """(words, influence), where influence [word, y, x] is the increase of each image token's
    log-likelihood by the word, in nats. Words are separated by spaces; a truncated word has no
    influence."""
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
    """The token ids of a text, without its end token."""
    row, mask, _ = drawer.tokenizer.encode([text], drawer.model.text_length)
    return row[mask].tolist()[:-1]


def _likelihoods(
    model: Transformer,
    params: Params,
    text: Int[np.ndarray, "m t"],
    masks: Bool[np.ndarray, "m t"],
    image_tokens: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "m n"]:
    """The log-probability of each image token, given each of the texts."""
    tokens = jnp.asarray(image_tokens, jnp.int32)
    inputs = jnp.concatenate([jnp.array([model.decoder_start_token_id]), tokens[:-1]])

    @jax.jit
    def read(params: Params, text: Array, mask: Array) -> Array:
        logits = model.apply(params, text, mask, jnp.tile(inputs[None], (len(text), 1)))
        chosen = jnp.tile(tokens[None, :, None], (len(text), 1, 1))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]

    likelihoods = [
        np.asarray(read(params, text[rows], masks[rows]))[:count]
        for rows, count in batches_of(ROWS, len(text))
    ]
    return np.concatenate(likelihoods)


def light_up(
    picture: UInt8[np.ndarray, "y x 3"], shares: Float[np.ndarray, "a b"], most: float
) -> UInt8[np.ndarray, "y x 3"]:
    """The picture, dimmed where a word's influence is below `most` nats."""
    side = len(picture) // len(shares)
    weights = np.clip(shares / max(most, 1e-6), 0, 1).repeat(side, 0).repeat(side, 1)
    return (picture * (DIM + (1 - DIM) * weights[..., None])).astype(np.uint8)

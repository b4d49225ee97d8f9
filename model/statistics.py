"""Statistics of the model on a batch: activations, and entropies of attention, predictions and
tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from common.batch import TokenBatch
from model.loss import shift_right
from model.notes import entropy, taking
from model.transformer import Params, Transformer

SQUARED = "activation/"
"""Prefix of mean squares, of which `finish` takes the root."""


def batch_statistics(
    model: Transformer, params: Params, batch: TokenBatch[Array]
) -> dict[str, Array]:
    """Means over the rows of a batch by name, without dropout:

    - activation/…: the mean square of each layer's output
    - attention/…: the entropy of each attention over its keys, padded queries included; a decoder
      layer's second one is its cross-attention
    - entropy/prediction: the entropy of the predicted distributions
    - share/tokens, share/predicted: the frequency of each class among tokens and predictions
    """
    inputs = shift_right(batch["image_tokens"], model.decoder_start_token_id)
    with taking() as notes:
        laid_out = model.lay_out(params)
        logits = model.apply(laid_out, batch["text_tokens"], batch["text_mask"], inputs)
    predicted = jax.nn.softmax(logits)
    tokens = batch["image_tokens"]
    counts = jnp.zeros(logits.shape[-1]).at[tokens.reshape(-1)].add(1.0)
    return {
        **notes,
        "entropy/prediction": entropy(predicted).mean(),
        "share/tokens": counts / tokens.size,
        "share/predicted": predicted.mean((0, 1)),
    }


def finish(means: dict[str, Array]) -> dict[str, Array]:
    """The logged values, computed from the means over all rows: roots of the mean squares, and
    entropies of the shares. entropy/tokens shows how much of the codebook the pictures use,
    entropy/predicted how much the model uses."""
    statistics = {
        name: jnp.sqrt(value) if name.startswith(SQUARED) else value
        for name, value in means.items()
        if not name.startswith("share/")
    }
    for name in ("tokens", "predicted"):
        statistics[f"entropy/{name}"] = entropy(means[f"share/{name}"])
    return statistics

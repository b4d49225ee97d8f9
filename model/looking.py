"""What goes on inside of the model for a batch: sizes of activations, entropies of attention, of
predictions and of tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from model.loss import Batch, shift_right
from model.notes import entropy, taking
from model.transformer import Params, Transformer

SQUARED = "activation/"
"""Values whose names begin so are mean squares, of which `finish` takes the root."""


def look_inside(model: Transformer, params: Params, batch: Batch) -> dict[str, Array]:
    """Means over the rows of a batch, without dropout, by name:

    - of each layer, the mean square of its output, and the entropy of its attention over the keys,
      padded queries included (a decoder layer's second entropy is of its attention to the caption)
    - the entropy of the predicted distributions
    - how often each class is among the tokens, and among the predictions
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
    """The values that are shown, from means over all rows: roots of the mean squares, and entropies
    of the classes' shares. entropy/tokens says how much of the codebook the pictures use,
    entropy/predicted how much the model does."""
    found = {
        name: jnp.sqrt(value) if name.startswith(SQUARED) else value
        for name, value in means.items()
        if not name.startswith("share/")
    }
    for name in ("tokens", "predicted"):
        found[f"entropy/{name}"] = entropy(means[f"share/{name}"])
    return found

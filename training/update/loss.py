"""The type of a loss, and of its arguments and results."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from jax.tree_util import Partial
from jaxtyping import Array, Int, Key, PyTree

from common.batch import Batch

B = TypeVar("B", bound=Batch)
"""The kind of batch that a loss reads (common/batch.py)."""
Means = Mapping[str, Array | Partial]
"""Metrics of a loss: means over rows. `Partial(function, *means)` is a metric that is a function of
means, such as a perplexity: the function gets the means over all micro-batches and devices."""


class LossContext(NamedTuple):
    """Values that a loss may read in addition to its parameters, batch and keys."""

    step: Int[Array, ""]
    """Finished updates."""
    players: Mapping[str, PyTree] = {}
    """Parameters of the model (`model`) and of each further player, by name; see players.py."""


Loss = Callable[[PyTree, B, Key[Array, " b"], LossContext], tuple[Array, Means]]
"""(parameters, batch, a key for each example, context) → (objective, metrics)."""

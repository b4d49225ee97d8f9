"""Optimizers by name. Each gives a direction; the training step multiplies it by the learning rate.

So the learning rate is a function of the finished updates alone and no count hides in a state.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optim.config import OptimConfig, Optimizer


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Clip by global norm, find the direction, add decoupled weight decay."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        DIRECTIONS[config.name](config),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed)
        if config.weight_decay
        else optax.identity(),
    )


DIRECTIONS: dict[Optimizer, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(b1=c.beta1, b2=c.beta2, eps=c.epsilon),
    "sgd": lambda c: optax.trace(decay=c.beta1),
}


def is_decayed(params: Any) -> Any:
    """True for the kernels of dense and convolution layers: never norms, biases, embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

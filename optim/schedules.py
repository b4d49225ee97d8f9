"""Learning rate as a function of the update."""

import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.config import OptimConfig


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, hold, linear decay to 0 over the last `decay_fraction` of `steps`.

    Only the decay depends on `steps`, so a longer run is the same run until its decay begins.
    """
    warmup = max(config.warmup_steps, 1)
    decay_steps = max(round(config.decay_fraction * steps), 1)

    def schedule(step: Array) -> Array:
        rising = (step + 1) / warmup
        falling = (steps - step) / decay_steps
        return config.learning_rate * jnp.clip(jnp.minimum(rising, falling), 0.0, 1.0)

    return schedule

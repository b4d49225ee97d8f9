"""Configuration of the optimizer and its learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, clipping, and a schedule of warm-up, hold and decay to 0."""

    name: Optimizer = "adamw"
    """adamw (Loshchilov & Hutter 2017, arXiv:1711.05101) or sgd with momentum."""
    learning_rate: float = 2e-3
    """Highest learning rate, reached after the warm-up; sgd wants about 100 × adamw's."""
    warmup_steps: int = 20
    """Updates over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.3
    """Last share of all updates over which the learning rate falls linearly to 0. A resume with
    more steps re-plans only this part."""
    beta1: float = 0.9
    """Momentum: decay of the mean of gradients, in adamw and sgd."""
    beta2: float = 0.98
    """Decay of the mean of squared gradients, in adamw; 0.98 forgets in 50 updates, right for short
    runs."""
    epsilon: float = 1e-8
    """Added to the root of the mean square in adamw."""
    weight_decay: float = 0.0
    """Decoupled decay per update, times the learning rate; never on norms, biases and
    embeddings."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm; 0 = off."""

    def __post_init__(self) -> None:
        for name in ("decay_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} {getattr(self, name)} is not within 0..1")
        for name in ("learning_rate", "warmup_steps", "epsilon", "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} cannot be negative, not {getattr(self, name)}")

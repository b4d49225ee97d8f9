"""Grafts: simple optimizers. Shampoo's update gets the norm of theirs, tensor by tensor.

Agarwal et al. 2020, arXiv:2002.11803. Each acts on one tensor, without bias correction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from optim.config import Graft

TINY = 1e-16


class Scale(NamedTuple):
    """Settings of a graft."""

    beta2: float
    epsilon: float
    largest_rms: float = 0.0


Squares = Any  # second moments, shaped like the gradient; None for a graft without them
GraftFunction = Callable[[Array, Squares, Scale], tuple[Array, Squares]]


def moving_average(old: Array, new: Array, beta: float) -> Array:
    """beta · old + (1 − beta) · new; for beta = 1, old + new."""
    return beta * old + (1.0 if beta == 1 else 1 - beta) * new


def _sgd(gradient: Array, squares: Squares, scale: Scale) -> tuple[Array, Squares]:
    return gradient, None


def _sqrt_n(gradient: Array, squares: Squares, scale: Scale) -> tuple[Array, Squares]:
    return jnp.sign(gradient), None


def _adagrad(gradient: Array, squares: Squares, scale: Scale) -> tuple[Array, Squares]:
    squares = moving_average(squares, jnp.square(gradient), beta=1.0)
    return gradient / (jnp.sqrt(squares) + scale.epsilon), squares


def _rmsprop(gradient: Array, squares: Squares, scale: Scale) -> tuple[Array, Squares]:
    squares = moving_average(squares, jnp.square(gradient), scale.beta2)
    update = gradient / (jnp.sqrt(squares) + scale.epsilon)
    if scale.largest_rms:
        rms = jnp.sqrt(jnp.square(update).mean())
        update = update / jnp.maximum(1.0, rms / scale.largest_rms)
    return update, squares


def _normalized(graft: GraftFunction) -> GraftFunction:
    """The graft, applied to the gradient divided by its norm."""

    def of_direction(gradient: Array, squares: Squares, scale: Scale) -> tuple[Array, Squares]:
        return graft(gradient / (jnp.linalg.norm(gradient.ravel()) + TINY), squares, scale)

    return of_direction


GRAFTS: dict[Graft, GraftFunction] = {
    "sgd": _sgd,
    "sqrt_n": _sqrt_n,
    "adagrad": _adagrad,
    "adagrad_normalized": _normalized(_adagrad),
    "rmsprop": _rmsprop,
    "rmsprop_normalized": _normalized(_rmsprop),
}
WITHOUT_SQUARES: tuple[Graft, ...] = ("sgd", "sqrt_n")

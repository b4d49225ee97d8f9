"""Inverse p-th roots of symmetric positive semidefinite matrices, by products of matrices alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

State = tuple[Any, ...]

STEPS = 100
TOLERANCE = 1e-6
GROWTH = 1.2  # the error may grow so much in a step before the iteration is given up
SMALLEST = 1e-6  # the largest eigenvalue is not taken to be less


def inverse_root(
    matrix: Float[Array, "n n"],
    p: int,
    ridge: float = 1e-6,
    relative: bool = True,
    precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST,
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """(matrix + ridge · λ · I)^(−1/p) and the largest entry of |rootᵖ · matrix − I| it ended with.

    λ is the largest eigenvalue, or 1 if not `relative`. Coupled Newton iteration, Guo & Higham
    2006 and Higham, Functions of Matrices, eq. 7.18: M → I while H → the root, where in every step
    A = ((p + 1) I − M) / p gives M ← Aᵖ M and H ← H A. When the error grows, the last H counts.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    largest = largest_eigenvalue(matrix, precision) if relative else jnp.ones((), matrix.dtype)
    damped = matrix + ridge * jnp.maximum(largest, SMALLEST) * identity
    if len(matrix) == 1:
        return damped ** (-1 / p), jnp.zeros((), matrix.dtype)

    def error_of(product: Array) -> Array:
        return jnp.abs(product - identity).max()

    def goes_on(state: State) -> Array:
        step, _, _, _, error, growth = state
        return (step < STEPS) & (error > TOLERANCE) & (growth < GROWTH)

    def newton(state: State) -> State:
        step, product, root, _, error, _ = state
        factor = ((p + 1) * identity - product) / p
        product = jnp.matmul(_power(factor, p, precision), product, precision=precision)
        fresh = jnp.matmul(root, factor, precision=precision)
        now = error_of(product)
        return step + 1, product, fresh, root, now, now / error

    scale = (1 + p) / (2 * jnp.linalg.norm(damped))
    product, root = damped * scale, identity * scale ** (1 / p)
    start: State = jnp.int32(0), product, root, root, error_of(product), jnp.ones((), matrix.dtype)
    _, _, root, before, error, growth = jax.lax.while_loop(goes_on, newton, start)
    return jnp.where(growth < GROWTH, root, before), error


def largest_eigenvalue(
    matrix: Float[Array, "n n"], precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST
) -> Float[Array, ""]:
    """By power iteration from a fixed vector, until it moves by no more than the tolerance."""

    def goes_on(state: State) -> Array:
        step, _, value, before = state
        return (step < STEPS) & ((jnp.abs(value - before) > TOLERANCE) | (step == 0))

    def multiply(state: State) -> State:
        step, vector, value, _ = state
        unit = vector / jnp.linalg.norm(vector)
        image = jnp.matmul(matrix, unit, precision=precision)
        return step + 1, image, jnp.dot(unit, image, precision=precision), value

    # If the iteration is cut short its result depends on the start: this is the published one.
    vector = np.random.RandomState(1729).uniform(-1.0, 1.0, len(matrix))
    zero = jnp.zeros((), matrix.dtype)
    start: State = jnp.int32(0), jnp.asarray(vector, matrix.dtype), zero, zero
    return jax.lax.while_loop(goes_on, multiply, start)[2]


def _power(matrix: Array, p: int, precision: jax.lax.PrecisionLike) -> Array:
    """matrixᵖ for p ≥ 1, by squaring."""
    if p == 1:
        return matrix
    half = _power(matrix, p // 2, precision)
    square = jnp.matmul(half, half, precision=precision)
    return jnp.matmul(square, matrix, precision=precision) if p % 2 else square

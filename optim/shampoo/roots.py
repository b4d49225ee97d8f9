"""Inverse p-th roots of symmetric positive semidefinite matrices, by matrix products only."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

State = tuple[Array, ...]

STEPS = 100
TOLERANCE = 1e-6
GROWTH = 1.2  # the iteration stops when the error grows by this factor in one step
SMALLEST = 1e-6  # lower bound of the largest eigenvalue that scales the ridge


def inverse_root(
    matrix: Float[Array, "n n"],
    p: int,
    ridge: float = 1e-6,
    relative: bool = True,
    precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST,
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """(matrix + ridge · λ · I)^(−1/p), and its error: the largest entry of |rootᵖ · matrix − I|.

    λ is the largest eigenvalue, or 1 if not `relative`. The coupled Newton iteration of Guo &
    Higham 2006 and Higham, Functions of Matrices, eq. 7.18: each step sets
    A = ((p + 1) I − M) / p, M ← Aᵖ M and H ← H A; M tends to I and H to the root. If the error
    grows, the iteration stops and the H of the step before is returned.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    largest = largest_eigenvalue(matrix, precision) if relative else jnp.ones((), matrix.dtype)
    damped = matrix + ridge * jnp.maximum(largest, SMALLEST) * identity
    if len(matrix) == 1:
        return damped ** (-1 / p), jnp.zeros((), matrix.dtype)

    def error_of(product: Array) -> Array:
        return jnp.abs(product - identity).max()

    def continues(state: State) -> Array:
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
    _, _, root, before, error, growth = jax.lax.while_loop(continues, newton, start)
    return jnp.where(growth < GROWTH, root, before), error


def largest_eigenvalue(
    matrix: Float[Array, "n n"], precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST
) -> Float[Array, ""]:
    """The largest eigenvalue, by power iteration from a fixed vector, until it changes by at most
    TOLERANCE or after STEPS steps."""

    def continues(state: State) -> Array:
        step, _, value, before = state
        return (step < STEPS) & ((jnp.abs(value - before) > TOLERANCE) | (step == 0))

    def multiply(state: State) -> State:
        step, vector, value, _ = state
        unit = vector / jnp.linalg.norm(vector)
        image = jnp.matmul(matrix, unit, precision=precision)
        return step + 1, image, jnp.dot(unit, image, precision=precision), value

    # After STEPS steps without convergence the result depends on the start vector. This is the
    # vector of the published implementation.
    vector = np.random.RandomState(1729).uniform(-1.0, 1.0, len(matrix))
    zero = jnp.zeros((), matrix.dtype)
    start: State = jnp.int32(0), jnp.asarray(vector, matrix.dtype), zero, zero
    return jax.lax.while_loop(continues, multiply, start)[2]


def _power(matrix: Array, p: int, precision: jax.lax.PrecisionLike) -> Array:
    """matrixᵖ for p ≥ 1, by repeated squaring."""
    if p == 1:
        return matrix
    half = _power(matrix, p // 2, precision)
    square = jnp.matmul(half, half, precision=precision)
    return jnp.matmul(square, matrix, precision=precision) if p % 2 else square

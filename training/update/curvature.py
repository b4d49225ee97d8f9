"""The curvature of one batch's loss: along the update, and the Hessian's eigenvalue and trace."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from training.update.observables import Recompute, Update, whole_norm

LANCZOS = 12
"""Hessian products for the largest eigenvalue."""
PROBES = 4
"""Hessian products for the trace."""
TAG = 0x6C6F6F6B  # keeps this key different from the keys of examples
FLOOR = 1e-6
"""Least relative variance of a measured value in the fit."""


def parabola(update: Update) -> Mapping[str, Array]:
    """look/alpha: where on a parabola the update ends. The parabola is fitted to losses and slopes
    before and after the update, weighted by their variances over the micro-batches. −1 = where the
    update began; 0 = at the minimum; 1 = on the other side, as high as the beginning. −1 also if
    the parabola bends down (Mutschler & Zell 2020; Cockpit)."""
    recompute = _recompute(update)
    length = whole_norm(update.updates)
    moved = jax.tree.map(lambda p, u: p + u, recompute.trained, update.updates)
    assert recompute.losses is not None
    values = []
    for grads, losses in ((recompute.parts, recompute.losses), recompute.parts_at(moved)):
        slopes = sum(
            (g * u[None]).sum(tuple(range(1, g.ndim)))
            for g, u in zip(jax.tree.leaves(grads), jax.tree.leaves(update.updates), strict=True)
        )
        values += [_moments(recompute, losses), _moments(recompute, slopes)]
    (first, first_spread), (slope, slope_spread), (last, last_spread), (end, end_spread) = values
    seen = jnp.stack([jnp.zeros(()), last - first, slope, end])
    spread = jnp.stack([first_spread, last_spread, slope_spread, end_spread])
    rows = jnp.array([[1.0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]])
    weights = 1 / (spread + FLOOR * jnp.square(seen).max() + 1e-30)
    weighted = rows * (weights / weights.max())[:, None]
    normal = jnp.matmul(rows.T, weighted, precision="highest")
    _, fall, bend = jnp.linalg.solve(normal, jnp.matmul(weighted.T, seen, precision="highest"))
    alpha = jnp.where(bend > 0, -2 * bend / jnp.where(fall == 0, -1.0, fall) - 1, -1.0)
    return {"look/alpha": jnp.where(length > 0, alpha, -1.0)}


def _moments(recompute: Recompute, values: Array) -> tuple[Array, Array]:
    """(mean over the micro-batches, variance of that mean)."""
    mean = recompute.mean({"mean": values.mean()})["mean"]
    square = recompute.mean({"square": jnp.square(values - mean).mean()})["square"]
    return mean, square / max(recompute.count - 1, 1)


def top_eigenvalue(update: Update) -> Mapping[str, Array]:
    """look/hessian_top: the largest eigenvalue of the Hessian, by Lanczos' iteration."""
    recompute = _recompute(update)
    start = _signs(recompute, 0)
    zeros = jax.tree.map(jnp.zeros_like, start)
    unit = _scaled(start, 1 / whole_norm(start))

    def lanczos_step(
        state: tuple[PyTree, PyTree, Array], _: None
    ) -> tuple[PyTree, tuple[Array, Array]]:
        previous, vector, beta = state
        image = _hessian_times(recompute, vector)
        alpha = _dot(image, vector)
        rest = jax.tree.map(lambda w, v, old: w - alpha * v - beta * old, image, vector, previous)
        beta = whole_norm(rest)
        return (vector, _scaled(rest, 1 / jnp.maximum(beta, 1e-20)), beta), (alpha, beta)

    _, (alphas, betas) = jax.lax.scan(
        lanczos_step, (zeros, unit, jnp.float32(0)), None, length=LANCZOS
    )
    # Once the Krylov space is exhausted, later coefficients are rounding errors.
    alive = jnp.cumprod(jnp.concatenate([jnp.ones(1), betas[:-1] > 1e-5 * jnp.abs(alphas).max()]))
    links = betas[:-1] * alive[1:]
    matrix = jnp.diag(jnp.where(alive > 0, alphas, alphas[0]))
    matrix += jnp.diag(links, 1) + jnp.diag(links, -1)
    return {"look/hessian_top": jnp.linalg.eigvalsh(matrix)[-1]}


def trace(update: Update) -> Mapping[str, Array]:
    """look/hessian_trace: the mean of vᵀ H v over vectors of random signs (Hutchinson 1990)."""
    recompute = _recompute(update)

    def add_probe(total: Array, number: Array) -> tuple[Array, None]:
        signs = _signs(recompute, number + 1)
        return total + _dot(signs, _hessian_times(recompute, signs)), None

    total, _ = jax.lax.scan(add_probe, jnp.float32(0), jnp.arange(PROBES))
    return {"look/hessian_trace": total / PROBES}


def _recompute(update: Update) -> Recompute:
    assert update.recompute is not None
    return update.recompute


def _hessian_times(recompute: Recompute, vector: PyTree) -> PyTree:
    return jax.jvp(recompute.gradient_at, (recompute.trained,), (vector,))[1]


def _signs(recompute: Recompute, number: int | Array) -> PyTree:
    """A vector of random signs, the same on all devices."""
    key = jax.random.fold_in(jax.random.fold_in(recompute.key, TAG), number)
    leaves, treedef = jax.tree.flatten(recompute.trained)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            jax.random.rademacher(k, leaf.shape, jnp.float32)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )


def _scaled(tree: PyTree, factor: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def _dot(a: PyTree, b: PyTree) -> Any:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

"""The observables of --training.observe, as a table by cost. After Cockpit: Schneider et al. 2021,
arXiv:2102.06604.

`economy` needs no further pass over the batch: norms, histograms, and statistics of the gradients
of micro-batches. `business` adds a second gradient and a forward pass. `full` adds products with
the Hessian.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from common.trees import is_stacked, named_leaves
from optim.freezing import with_zeros
from training.config import ObserveLevel
from training.update.curvature import parabola, top_eigenvalue, trace
from training.update.observables import Observable, Update, whole_norm

TINY = 1e-30
DECADES = 14
"""Bins of a histogram: below 1e-10, twelve decades from there, and 100 and above."""


def sizes(update: Update) -> Mapping[str, Array]:
    """Norms of gradient and update, and the ratio of the update's to the weights'."""
    moved, weights = whole_norm(update.updates), whole_norm(update.params)
    return {
        "look/gradient": whole_norm(update.grads),
        "look/update": moved,
        "look/update_to_weights": moved / jnp.maximum(weights, TINY),
    }


def histograms(update: Update) -> Mapping[str, Array]:
    """The number of entries of gradient and weights in each decade, for every tensor, or every
    layer of a stack."""
    trees = {"grad": with_zeros(update.grads, update.params), "param": update.params}
    return {
        f"histogram/{kind}/{name}": counts
        for kind, tree in trees.items()
        for name, leaf in named_leaves(tree)
        for name, counts in _layers(name, leaf)
    }


def _layers(name: str, leaf: Array) -> list[tuple[str, Array]]:
    if not is_stacked(name):
        return [(name, _decades(leaf))]
    return [(f"{name}/{layer}", _decades(leaf[layer])) for layer in range(len(leaf))]


def _decades(leaf: Array) -> Array:
    size = jnp.log10(jnp.maximum(jnp.abs(leaf.astype(jnp.float32)), 1e-11))
    place = jnp.clip(jnp.floor(size).astype(jnp.int32) + 11, 0, DECADES - 1)
    return jnp.stack([(place == bin).sum() for bin in range(DECADES)]).astype(jnp.float32)


def gradient_spread(update: Update) -> Mapping[str, Array]:
    """Statistics of the gradients of micro-batches or devices; they show if the batch is too small:

    - noise_scale: the trace of the gradients' covariance over the squared norm of their mean, in
      examples. A batch much larger than this hardly helps (McCandlish et al. 2018,
      arXiv:1812.06162). NaN if the noise hides the mean.
    - gsnr: squared mean over variance of an example's gradient, averaged over the parameters (Liu
      et al. 2020, arXiv:2001.07384).
    - norm_test: relative error of the mean gradient (Byrd et al. 2012); inner_product_test: only of
      its length (Bollapragada et al. 2018, arXiv:1710.11258). Above 1 the batch is too small.
    """
    recompute, grads = update.recompute, update.grads
    assert recompute is not None
    count, size = recompute.count, recompute.size
    away = jax.tree.map(lambda g, mean: jnp.square(g - mean[None]).mean(0), recompute.parts, grads)
    variance = jax.tree.map(lambda v: v * size * count / (count - 1), recompute.mean(away))
    of_trace, square = _sum(variance), jnp.square(whole_norm(grads))
    dots = sum(jax.tree.leaves(jax.tree.map(_dots, recompute.parts, grads)))
    inner = recompute.mean({"inner": jnp.square(dots).mean()})["inner"]
    signal = square - of_trace / (count * size)
    ratios = jax.tree.map(lambda mean, v: jnp.square(mean) / (v + TINY), grads, variance)
    entries = sum(leaf.size for leaf in jax.tree.leaves(grads))
    relative = inner / jnp.maximum(square**2, TINY)
    return {
        "look/noise_scale": jnp.where(signal > 0, of_trace / signal, jnp.nan),
        "look/gsnr": _sum(ratios) / entries,
        "look/norm_test": jnp.sqrt(of_trace / (count * size * jnp.maximum(square, TINY))),
        "look/inner_product_test": jnp.sqrt(jnp.maximum(relative - 1, 0) / (count - 1)),
    }


def _dots(parts: Array, mean: Array) -> Array:
    """The dot product of each part of one tensor with the mean."""
    return (parts * mean[None]).sum(tuple(range(1, parts.ndim)))


def _sum(tree: PyTree) -> Array:
    return sum(leaf.sum() for leaf in jax.tree.leaves(tree))


Statistics = Callable[[Update], Mapping[str, Array]]
TABLE: dict[ObserveLevel, tuple[tuple[Statistics, bool], ...]] = {
    "off": (),
    "economy": ((sizes, False), (histograms, False), (gradient_spread, True)),
    "business": ((parabola, True),),
    "full": ((top_eigenvalue, False), (trace, False)),
}
"""Level → the observables that it adds to the levels before it; True if one reads the gradients of
micro-batches."""


def make_observables(
    level: ObserveLevel, every: int, parts: int, more: Statistics | None = None
) -> list[Observable]:
    """The observables of a level of training.observe, cheaper levels included. `parts` is the
    number of micro-batches over all devices; with one, their spread is not measured. `more` is an
    observable of the model, added from level business on."""
    levels = list(TABLE)
    chosen = [row for name in levels[: levels.index(level) + 1] for row in TABLE[name]]
    if more is not None and levels.index(level) >= levels.index("business"):
        chosen.append((more, False))
    return [
        Observable(every, compute, wants_parts)
        for compute, wants_parts in chosen
        if parts > 1 or compute is not gradient_spread
    ]

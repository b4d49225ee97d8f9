"""Factors of the learning rate by patterns of parameter paths."""

from collections.abc import Sequence

import jax
import optax
from jaxtyping import PyTree

from common.trees import map_named
from optim.paths import GROUPS, Factor, check_patterns, make_factor, matches


def scale_rates(rates: Sequence[Factor], must_match: bool = True) -> optax.GradientTransformation:
    """A transformation that multiplies updates by their factors. `init` raises ValueError for a
    pattern that matches nothing."""
    if not rates:
        return optax.identity()
    factor_of = make_factor(rates)

    def init(params: PyTree) -> optax.EmptyState:
        names = jax.tree.leaves(map_named(lambda name, _: name, params))
        for pattern, _ in rates if must_match else ():
            if pattern not in GROUPS or not any(matches(n, GROUPS[pattern]) for n in names):
                check_patterns("rates", [pattern], names)
        return optax.EmptyState()

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return map_named(lambda name, u: u * factor_of(name), updates), state

    return optax.GradientTransformation(init, update)

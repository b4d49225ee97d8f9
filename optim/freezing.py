"""Frozen parameters by patterns of their paths."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from common.trees import map_named
from optim.paths import check_patterns, matches

IsTrained = Callable[[str], bool]
"""Path of a parameter → True if it is trained."""


def make_is_trained(
    frozen: tuple[str, ...] = (), train_only: tuple[str, ...] = ()
) -> IsTrained | None:
    """A function from a path to True if it matches no pattern of `frozen`, and a pattern of
    `train_only` if there are any. None if everything is trained."""
    if not frozen and not train_only:
        return None
    return lambda name: (not train_only or matches(name, train_only)) and not matches(name, frozen)


def trained_part(params: PyTree, is_trained: IsTrained | None) -> PyTree:
    """The tree with an empty `optax.MaskedNode` in place of each frozen parameter."""
    if is_trained is None:
        return params
    return map_named(lambda name, p: p if is_trained(name) else optax.MaskedNode(), params)


def with_trained(params: PyTree, part: PyTree) -> PyTree:
    """`params` with the arrays of `part`, a result of `trained_part`, in their places."""
    return jax.tree.map(
        lambda new, old: old if _is_frozen(new) else new, part, params, is_leaf=_is_frozen
    )


def with_zeros(part: PyTree, params: PyTree) -> PyTree:
    """`part` with zeros in place of frozen arrays, in the shapes of `params`."""
    return with_trained(jax.tree.map(jnp.zeros_like, params), part)


def _is_frozen(leaf: object) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def freeze(
    optimizer: optax.GradientTransformationExtraArgs,
    frozen: tuple[str, ...] = (),
    train_only: tuple[str, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    """`optimizer` for the trained parameters (see `make_is_trained`), zero updates for the others.

    Frozen parameters have no optimizer state and do not count in the norm for clipping. `update`
    also takes results of `trained_part`. `init` raises ValueError for a pattern that matches
    nothing, and if nothing is left to train.
    """
    is_trained = make_is_trained(frozen, train_only)
    if is_trained is None:
        return optimizer

    def labels(params: PyTree) -> PyTree:
        return map_named(lambda name, _: "trained" if is_trained(name) else "frozen", params)

    both = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)

    def init(params: PyTree) -> PyTree:
        names = jax.tree.leaves(map_named(lambda name, _: name, params))
        check_patterns("freeze", frozen, names)
        check_patterns("train_only", train_only, names)
        if "trained" not in jax.tree.leaves(labels(params)):
            raise ValueError("optim.freeze and optim.train_only leave nothing to train")
        return both.init(params)

    return optax.GradientTransformationExtraArgs(init, both.update)

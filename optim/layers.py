"""Optimizers that treat each layer of a stack as a separate tensor."""

from collections.abc import Callable, Sized

import jax
import optax
from jaxtyping import PyTree

from common.trees import is_stacked, map_named

UNSTACKED = 0
State = dict[str, PyTree]
"""Number of layers → the state of the parameters with this number of layers."""


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, mapped over the layers of every parameter below a `run<digits>`.

    It is for transformations that compute with a whole tensor, such as its norm or its rows. The
    state is a dict of inner states by number of layers; "layers0" is for unstacked parameters.
    """

    def mapped(function: Callable[..., PyTree], layers: int) -> Callable[..., PyTree]:
        return function if layers == UNSTACKED else jax.vmap(function)

    def init(params: PyTree) -> State:
        return {
            f"layers{n}": mapped(inner.init, n)(_only(params, n)) for n in _layer_counts(params)
        }

    def update(grads: PyTree, state: State, params: PyTree = None) -> tuple[PyTree, State]:
        grads_so_far, states = grads, {}
        for n in _layer_counts(grads):
            group, states[f"layers{n}"] = mapped(inner.update, n)(
                _only(grads, n), state[f"layers{n}"], _only(params, n)
            )
            grads_so_far = jax.tree.map(
                lambda old, new: old if _is_left_out(new) else new,
                grads_so_far,
                group,
                is_leaf=_is_left_out,
            )
        return grads_so_far, states

    return optax.GradientTransformation(init, update)


def _layers(name: str, leaf: Sized) -> int:
    return len(leaf) if is_stacked(name) else UNSTACKED


def _layer_counts(tree: PyTree) -> list[int]:
    return sorted(set(jax.tree.leaves(map_named(_layers, tree))))


def _only(tree: PyTree, layers: int) -> PyTree:
    """The tree, masked except for leaves with this number of layers."""
    return map_named(
        lambda name, leaf: leaf if _layers(name, leaf) == layers else optax.MaskedNode(), tree
    )


def _is_left_out(leaf: object) -> bool:
    return isinstance(leaf, optax.MaskedNode)

"""Names of a tree's leaves by path, and stacks of layers; any package may import this file."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jaxtyping import PyTree

_RUN = re.compile(r"(^|/)run\d+(/|$)")


def path_name(path: Iterable[object]) -> str:
    """jax's path as text, such as "encoder/run0/attention/q/kernel"; a tuple index is "[1]"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def map_named(function: Callable[..., object], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` of `function(name, leaf, ...)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
    )


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """(name, leaf) of each leaf, in jax's order."""
    return [(path_name(path), leaf) for path, leaf in jax.tree.flatten_with_path(tree)[0]]


def is_stacked(name: str) -> bool:
    """True if the parameter of this name is stacked: its first axis is over the layers of a run."""
    return _RUN.search(name) is not None

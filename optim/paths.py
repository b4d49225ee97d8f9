"""Parameters by their path: patterns of paths, and stacks of layers."""

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import jax


def path_name(path: Iterable[Any]) -> str:
    """A path of jax's as "encoder/run0/attention/q/kernel"."""
    return "/".join(str(getattr(part, "key", part)) for part in path)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is for this path; `*` stands for anything, slashes too."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_stacked(name: str) -> bool:
    """Whether the first axis of this parameter is over the layers of a run."""
    return any(re.fullmatch(r"run\d+", part) for part in name.split("/"))


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` of `function(name, leaf, ...)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
    )

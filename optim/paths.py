"""Parameters by their path: patterns of paths, and stacks of layers."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

SHOWN = 4
"""Paths named at most where none matches."""


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


def check_patterns(
    field: str, patterns: Iterable[str], names: Sequence[str], what: str = "parameters"
) -> None:
    """Raises ValueError for a pattern of the setting optim.`field` that matches none of the names,
    with those nearest to it."""
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            near = difflib.get_close_matches(pattern.strip("*"), names, n=SHOWN, cutoff=0.0)
            raise ValueError(
                f"optim.{field} {pattern!r} matches none of {len(names)} {what}; the nearest are "
                f"{', '.join(near)}"
            )

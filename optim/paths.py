"""Patterns of parameters' paths."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

SHOWN = 4
"""Paths named at most where none matches."""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is for this path; `*` stands for anything, slashes too."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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

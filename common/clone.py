"""Finds files of this clone, such as demo/ and presets/, from any working directory; imports no
other file of Pastel."""

import functools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)
ROOT = Path(__file__).parents[1]


def find(path: str | Path) -> Path:
    """The path if it exists; otherwise the same path inside the clone, if that exists.

    If both exist, the path is returned unchanged, and a line on stderr names the other one.
    Absolute paths and paths with .. are returned unchanged.
    """
    given = Path(path)
    inside = ROOT / given
    if given.is_absolute() or ".." in given.parts or not os.path.exists(inside):
        return given
    if not os.path.exists(given):
        return inside
    if not os.path.samefile(given, inside):
        _print_that_both_exist(given)
    return given


def with_found(config: T, *names: str) -> T:
    """The dataclass with `find` applied to these fields, unless they are empty."""
    named = [name for name in names if getattr(config, name)]
    return replace(config, **{name: str(find(getattr(config, name))) for name in named})


@functools.cache
def _print_that_both_exist(path: Path) -> None:
    """Print once that a path exists in both places."""
    print(f"{path} here is taken; the clone's own is {ROOT / path}", file=sys.stderr)

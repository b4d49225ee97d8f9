"""Settings out of JSON, ours and other programs': values held to their types and sizes."""

import math
from collections.abc import Mapping
from typing import Any

MAX_SIZE, MAX_DEPTH = 1 << 24, 1 << 10
"""Beyond these a number in a configuration is damage: no model is that wide or deep."""
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def read_fields(values: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Settings of another program by our names. `fields`: their name → ours and their default.

    Raises:
        ValueError: one is of another type than its default, or too large.
    """
    found = {}
    for theirs, (ours, default) in fields.items():
        value, kind = values.get(theirs, default), type(default)
        value = float(value) if kind is float and type(value) is int else value
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise ValueError(f"{theirs} must be {WORDS[kind]}, not {value!r:.60}")
        most = MAX_DEPTH if ours.endswith("_depth") else MAX_SIZE
        least = min(default, 0) if kind is int else 0
        if kind is int and not least <= value <= most:
            raise ValueError(f"{theirs} must lie in {least}..{most}, not {value}")
        found[ours] = value
    return found

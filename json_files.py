"""JSON that others may have written: an object, bounded, no key twice; imports nothing of ours."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20
"""An index of the largest published models has 2 MB."""


def read_json(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most so many bytes.

    Raises:
        ValueError: there is none, it is larger, or it has a key twice.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"{path} holds no JSON object but a {kind}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r:.60} stands there twice")
    return found

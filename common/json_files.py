"""Reads untrusted JSON: bounded, and without repeated keys; imports no other file of Pastel."""

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]
"""A JSON object. The types of its values are checked where they are used."""
MAX_BYTES = 16 << 20
"""Largest file; the index of the largest published models has 2 MB."""


def read_json(path: Path, most: int = MAX_BYTES) -> Json:
    """The object in a JSON file of at most `most` bytes.

    Raises:
        ValueError: the file is missing or larger, is not a JSON object, or has a key twice.
    """
    content = parse_json(_read(path, most), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def read_list(path: Path) -> list[Json]:
    """The objects in a JSON file that holds a list of them; empty if there is no file.

    Raises:
        ValueError: the file has other content, is larger, or has a key twice.
    """
    return as_list(parse_json(_read(path, MAX_BYTES), path), path) if path.exists() else []


def as_list(value: object, name: object) -> list[Json]:
    """`value`, if it is a list of objects. Raises ValueError otherwise."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{name} is not a list of JSON objects")
    return value


def parse_json(data: bytes, name: object) -> Any:
    """The value of a JSON text. Raises ValueError with the name if it is not JSON."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from None


def _read(path: Path, most: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if len(data) > most:
        raise ValueError(f"{path} cannot be read: it is larger than {most:,} bytes")
    return data


def without_repeats(pairs: list[tuple[object, object]]) -> dict[Any, Any]:
    """The dict of these pairs, for `object_pairs_hook` of json.loads. Raises ValueError for a
    repeated key, because one of its values would be lost."""
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        seen: set[Any] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r:.200} appears twice")
    return mapping

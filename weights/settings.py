"""Reads settings from JSON, ours and other programs', and checks their types and sizes."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Fields = Mapping[str, tuple[str, object]]
"""A program's name of a setting → (Pastel's name, the program's default)."""
MAX_SIZE, MAX_DEPTH = 1 << 24, 1 << 10
"""Largest width and depth in a configuration; a larger number means that the file is damaged."""
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of whole numbers",
}


def read_fields(values: Mapping[str, object], fields: Fields) -> dict[str, Any]:
    """Settings of another program by Pastel's names.

    Raises:
        ValueError: a setting has another type than its default, or is too large.
    """
    found = {}
    for name, (pastel_name, default) in fields.items():
        value = values.get(name, default)
        most = MAX_DEPTH if pastel_name.endswith("_depth") else MAX_SIZE
        is_list = isinstance(default, tuple)
        if is_list and isinstance(value, list | tuple) and len(value) <= MAX_DEPTH:
            found[pastel_name] = tuple(_read_value(name, one, 0, most) for one in value)
        else:
            found[pastel_name] = _read_value(name, value, default, most)
    return found


def _read_value(name: str, value: Any, default: Any, most: int) -> Any:
    kind = type(default)
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{name} must be {WORDS[kind]}, not {value!r:.60}")
    least = min(default, 0) if kind is int else 0
    if kind is int and not least <= value <= most:
        raise ValueError(f"{name} must be in {least}..{most}, not {value}")
    return value


def read_own(config_class: type[T], values: object) -> T:
    """An instance of one of our frozen dataclasses, from the values that `dataclasses.asdict` made.

    Raises:
        ValueError: a setting is unknown, of another type than its default, or does not fit.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.60} is no {config_class.__name__}")
    fields = {one.name: one for one in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"it has settings that this version does not know: {unknown}")
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        if name not in values:
            continue
        may_be_null = type(None) in get_args(kind)
        kind = get_args(kind)[0] if may_be_null else kind
        if dataclasses.is_dataclass(kind):
            found[name] = read_own(kind, values[name])  # type: ignore[arg-type]
        elif may_be_null and values[name] is None:
            found[name] = None
        else:
            is_word = get_origin(kind) is Literal
            sample = ("" if is_word else kind()) if may_be_null else fields[name].default
            found |= read_fields(values, {name: (name, sample)})
            if is_word and found[name] not in get_args(kind):
                words = ", ".join(get_args(kind))
                raise ValueError(f"{name} {found[name]!r:.60} is not one of {words}")
    return config_class(**found)


@contextmanager
def configuring(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error in settings into a ValueError of one line that names their file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a configuration of {what}: {reason}") from None

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
    values_of = {}
    for name, (pastel_name, default) in fields.items():
        value = values.get(name, default)
        most = MAX_DEPTH if pastel_name.endswith("_depth") else MAX_SIZE
        is_list = isinstance(default, tuple)
        if is_list and isinstance(value, list | tuple) and len(value) <= MAX_DEPTH:
            values_of[pastel_name] = tuple(_read_value(name, entry, 0, most) for entry in value)
        else:
            values_of[pastel_name] = _read_value(name, value, default, most)
    return values_of


def _read_value(name: str, value: Any, default: Any, most: int) -> Any:
    type_ = type(default)
    value = float(value) if type_ is float and type(value) is int else value
    if type(value) is not type_ or (type_ is float and not math.isfinite(value)):
        raise ValueError(f"{name} must be {WORDS[type_]}, not {value!r:.60}")
    least = min(default, 0) if type_ is int else 0
    if type_ is int and not least <= value <= most:
        raise ValueError(f"{name} must be in {least}..{most}, not {value}")
    return value


def read_own(config_class: type[T], values: object) -> T:
    """An instance of one of our frozen dataclasses, from the values that `dataclasses.asdict` made.

    Raises:
        ValueError: a setting is unknown, of another type than its default, or does not fit.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.60} is no {config_class.__name__}")
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"it has settings that this version does not know: {unknown}")
    settings: dict[str, Any] = {}
    for name, type_ in get_type_hints(config_class).items():
        if name not in values:
            continue
        may_be_null = type(None) in get_args(type_)
        type_ = get_args(type_)[0] if may_be_null else type_
        if dataclasses.is_dataclass(type_):
            settings[name] = read_own(type_, values[name])  # type: ignore[arg-type]
        elif may_be_null and values[name] is None:
            settings[name] = None
        else:
            is_word = get_origin(type_) is Literal
            sample = ("" if is_word else type_()) if may_be_null else fields[name].default
            settings |= read_fields(values, {name: (name, sample)})
            if is_word and settings[name] not in get_args(type_):
                words = ", ".join(get_args(type_))
                raise ValueError(f"{name} {settings[name]!r:.60} is not one of {words}")
    return config_class(**settings)


@contextmanager
def configuring(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error in settings into a ValueError of one line that names their file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a configuration of {what}: {reason}") from None

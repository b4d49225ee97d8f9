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
    settings = {}
    for name, (pastel_name, default) in fields.items():
        value = values.get(name, default)
        most = MAX_DEPTH if pastel_name.endswith("_depth") else MAX_SIZE
        is_list = isinstance(default, tuple)
        if is_list and isinstance(value, list | tuple) and len(value) <= MAX_DEPTH:
            settings[pastel_name] = tuple(_read_value(name, entry, 0, most) for entry in value)
        else:
            settings[pastel_name] = _read_value(name, value, default, most)
    return settings


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
    hints = get_type_hints(config_class)
    settings = {
        name: _read_setting(name, hints[name], fields[name].default, values[name])
        for name in hints
        if name in values
    }
    return config_class(**settings)


def _read_setting(name: str, type_: Any, default: object, value: object) -> Any:
    """The value of a field with this type. A nullable field may have any value of its type; another
    one has the type of its default."""
    may_be_null = type(None) in get_args(type_)
    type_ = get_args(type_)[0] if may_be_null else type_
    if dataclasses.is_dataclass(type_) and isinstance(type_, type):
        return read_own(type_, value)
    if may_be_null and value is None:
        return None
    is_word = get_origin(type_) is Literal
    sample = ("" if is_word else type_()) if may_be_null else default
    setting = read_fields({name: value}, {name: (name, sample)})[name]
    if is_word and setting not in get_args(type_):
        words = ", ".join(get_args(type_))
        raise ValueError(f"{name} {setting!r:.60} is not one of {words}")
    return setting


@contextmanager
def configuring(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error in settings into a ValueError of one line that names their file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a configuration of {what}: {reason}") from None

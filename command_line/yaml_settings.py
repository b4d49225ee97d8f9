"""Reads settings in a YAML file, typed by the fields of a dataclass.

So `off` is a text in a field of texts, and false in a field of booleans. weights/yaml_files.py
parses the file, safely.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from weights.yaml_files import (
    is_null,
    line_of,
    merged,
    naming,
    parse_yaml,
    plain_value,
    read_number,
    read_text,
)

SEVERAL = {"*", "+"}
"""Values of `nargs` in the metadata of a field that takes several values."""
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NO_FIT = object()
"""Returned for a text that does not fit a type; None would be a value."""


def read_settings(
    path: Path, config_class: type, also: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The settings in a YAML file, typed by the fields of `config_class` and of its nested
    dataclasses. Only settings in the file are returned. A single value is read as a list if the
    field's metadata allow several. `also`: dotted names that are not fields, and their types.

    Raises:
        ValueError: a value does not fit; the message names file, key and line.
    """
    with naming(path):
        node = parse_yaml(read_text(path))
        return {} if node is None else _section(node, config_class, "", also or {})


def _section(
    node: Node, config_class: type, name: str, also: Mapping[str, object]
) -> dict[str, Any]:
    """The settings of a section with this dotted name; "" is the whole file."""
    if is_null(node):
        return {}
    if not isinstance(node, MappingNode):
        raise ValueError(f"{name or 'it'} is not a section of settings but {_describe(node)}")
    hints = get_type_hints(config_class)
    fields = dataclasses.fields(config_class)
    take_several = {field.name for field in fields if field.metadata.get("nargs") in SEVERAL}

    def read(key: ScalarNode, value: Node) -> Any:
        full_name = f"{name}.{key.value}" if name else key.value
        if key.value not in hints and full_name in also:
            return _typed(value, also[full_name], full_name, also)
        if key.value not in hints:
            near = difflib.get_close_matches(key.value, hints, n=1, cutoff=0.5)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"line {line_of(key)} has the unknown setting {full_name!r:.80}{advice}"
            )
        if key.value in take_several and isinstance(value, ScalarNode) and not is_null(value):
            return [value.value]
        return _typed(value, hints[key.value], full_name, also)

    return merged(node, read)


def _typed(node: Node, hint: object, name: str, also: Mapping[str, object]) -> Any:
    """The value of a setting, by its type. Raises ValueError if it does not fit."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _section(node, hint, name, also)
    types_ = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(node, ScalarNode):
        for type_ in sorted(types_, key=_strictness):
            value = _scalar(node, type_)
            if value is not _NO_FIT:
                return value
    for type_ in types_:
        if isinstance(node, SequenceNode) and get_origin(type_) in (tuple, list):
            return _list(node, type_, name)
        if isinstance(node, MappingNode) and (get_origin(type_) or type_) in (dict, Mapping):
            return plain_value(node)
        if type_ is Any:
            return plain_value(node)
    wanted = " or ".join(_describe_type(type_) for type_ in types_)
    raise ValueError(f"{name} must be {wanted}, not {_describe(node)} (line {line_of(node)})")


def _strictness(type_: object) -> int:
    """The place of a type in the order of trial: Literals and null first, texts last."""
    order: tuple[object, ...] = (bool, int, float, str)
    return order.index(type_) if type_ in order else -1


def _scalar(node: ScalarNode, type_: object) -> Any:
    """The value of a text as one type, or _NO_FIT."""
    text = node.value
    if get_origin(type_) is Literal:
        return next((choice for choice in get_args(type_) if str(choice) == text), _NO_FIT)
    if type_ is types.NoneType:
        return None if is_null(node) else _NO_FIT
    if type_ is bool:
        return BOOLEANS.get(text.lower(), _NO_FIT)
    if type_ in (int, float):
        number = read_number(text)
        if number is None or (type_ is int and isinstance(number, float)):
            return _NO_FIT
        return type_(number)
    return text if type_ is str and not is_null(node) else _NO_FIT


def _list(node: SequenceNode, type_: object, name: str) -> list[Any]:
    """The entries of a list or a tuple, by the types of its entries."""
    of_entries = get_args(type_)
    if not of_entries:
        return [plain_value(entry) for entry in node.value]
    is_fixed = len(of_entries) > 1 and of_entries[-1] is not Ellipsis
    if is_fixed and len(of_entries) != len(node.value):
        raise ValueError(f"{name} must have {len(of_entries)} entries, not {len(node.value)}")
    hints = of_entries if is_fixed else [of_entries[0]] * len(node.value)
    return [_typed(entry, hint, name, {}) for entry, hint in zip(node.value, hints, strict=True)]


def _describe_type(type_: Any) -> str:
    if get_origin(type_) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(type_))
    if get_origin(type_) in (tuple, list):
        of_entries = get_args(type_)
        return "a list" + (f" of {_describe_type(of_entries[0])}" if of_entries else "")
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return known.get(type_, "null" if type_ is types.NoneType else "settings")


def _describe(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return "null" if is_null(node) else f"{node.value!r:.60}"
    return "a list" if isinstance(node, SequenceNode) else "a section"

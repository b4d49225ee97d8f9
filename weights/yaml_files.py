"""Reads untrusted YAML: bounded, without repeated keys, typed by the fields of a dataclass.

A few hundred bytes of nested aliases can mean more values than fit in memory, so each alias counts
with all its values. YAML 1.1 reads `off` as false, `1e-3` as text and `22:05` as 1,325; here the
type of the field decides.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES, MAX_VALUES, MAX_DEPTH = 1 << 18, 100_000, 32
SEVERAL = {"*", "+"}
TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in (
        *("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map"),
        "python/tuple",  # what yaml.dump makes of one
    )
}
FACTS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NULLS = ("", "~", "null", "Null", "NULL")
INT = re.compile(r"[-+]?[0-9][0-9_]{0,30}")
FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file as plain values; dates stay texts.

    Raises:
        ValueError: the file holds no settings, a key twice, or more than the bounds allow; the
            message names the line.
    """
    return read_nodes(path)[0]


def read_nodes(path: Path) -> tuple[dict[str, Any], Node]:
    """(the result of `read_yaml`, the checked nodes with their lines). The file is read once."""
    with _blaming(path):
        node = parse_yaml(_read(path))
        if not isinstance(node, MappingNode):
            raise ValueError("it holds no settings")
        return plain_value(node), node


def read_settings(
    path: Path, config_class: type, also: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The settings in a YAML file, typed by the fields of `config_class` and of its nested
    dataclasses. Only settings in the file are returned. A single value is read as a list if the
    field's metadata allow several. `also`: dotted names that are not fields, and their types.

    Raises:
        ValueError: a value does not fit; the message names file, key and line.
    """
    with _blaming(path):
        node = parse_yaml(_read(path))
        if node is None or _is_null(node):
            return {}
        return _fields(node, config_class, "", also or {})


def parse_yaml(text: str) -> Node | None:
    """The checked nodes of a YAML text, of bounded size.

    Raises:
        ValueError: the text is not YAML, has a key twice, an unknown tag, or more than the bounds
            allow.
    """
    try:
        node = yaml.compose(text, Loader=_ShallowLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    if node is not None:
        _Checker().check(node, 0)
    return node


def plain_value(node: Node | None) -> Any:
    """The values of checked nodes without a field's type; off and no are texts."""
    if node is None:
        return None
    if isinstance(node, SequenceNode):
        return [plain_value(one) for one in node.value]
    if isinstance(node, MappingNode):
        return _merged(node, lambda key, value: plain_value(value))
    assert isinstance(node, ScalarNode)
    return node.value if node.style else _plain_scalar(node.value)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """A context that adds the file's name to a ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


class _ShallowLoader(yaml.SafeLoader):
    """A loader that refuses deep nesting at once; PyYAML itself takes seconds to fail."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Checker:
    def __init__(self) -> None:
        self.count = 0

    def check(self, node: Node, depth: int) -> None:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > MAX_VALUES:
            raise ValueError(f"it expands to more than {MAX_VALUES:,} values, aliases included")
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} deep, or in itself")
        if node.tag not in TAGS:
            raise ValueError(f"line {line} has the tag {node.tag!r:.60}, which no settings need")
        if isinstance(node, SequenceNode):
            for one in node.value:
                self.check(one, depth + 1)
        if isinstance(node, MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                self._check_key(key, lines)
                self.check(value, depth + 1)

    def _check_key(self, key: Node, lines: dict[str, int]) -> None:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise ValueError(f"line {line} has a key that is not text")
        if key.value in lines:
            raise ValueError(
                f"{key.value!r:.60} appears twice, in lines {lines[key.value]} and {line}; "
                "join the two"
            )
        lines[key.value] = line


def _merged(node: MappingNode, read: Callable[[Any, Node], Any]) -> dict[str, Any]:
    """A mapping's values by key. Its own keys override those merged by <<."""
    found: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in node.value:
        if key.value == "<<" and not key.style:
            many = value.value if isinstance(value, SequenceNode) else [value]
            for one in reversed(many):
                if not isinstance(one, MappingNode):
                    raise ValueError(f"line {key.start_mark.line + 1}: << merges no settings")
                found |= _merged(one, read)
        else:
            own[key.value] = read(key, value)
    return found | own


def _plain_scalar(text: str) -> Any:
    if text in NULLS:
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return FACTS[text.lower()]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> int | float | None:
    if INT.fullmatch(text):
        return int(text)
    if NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float(text) if FLOAT.fullmatch(text) else None


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and not node.style and node.value in NULLS


def _fields(
    node: Node, config_class: type, name: str, also: Mapping[str, object]
) -> dict[str, Any]:
    if _is_null(node):
        return {}
    if not isinstance(node, MappingNode):
        raise ValueError(f"{name or 'it'} is not a section of settings but {_brief(node)}")
    hints = get_type_hints(config_class)
    several = {
        one.name for one in dataclasses.fields(config_class) if one.metadata.get("nargs") in SEVERAL
    }

    def read(key: ScalarNode, value: Node) -> Any:
        full = f"{name}.{key.value}" if name else key.value
        if key.value not in hints and full in also:
            return _typed(value, also[full], full, also)
        if key.value not in hints:
            near = difflib.get_close_matches(key.value, hints, n=1, cutoff=0.5)
            more = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"line {key.start_mark.line + 1} has the unknown setting {full!r:.80}{more}"
            )
        if key.value in several and isinstance(value, ScalarNode) and not _is_null(value):
            return [value.value]
        return _typed(value, hints[key.value], full, also)

    return _merged(node, read)


def _typed(node: Node, hint: object, name: str, also: Mapping[str, object]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _fields(node, hint, name, also)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(node, ScalarNode):
        for kind in sorted(kinds, key=_strictness):
            found = _scalar(node, kind)
            if found is not _NO:
                return found
    for kind in kinds:
        if isinstance(node, SequenceNode) and get_origin(kind) in (tuple, list):
            return _list(node, kind, name)
        if isinstance(node, MappingNode) and (get_origin(kind) or kind) in (dict, Mapping):
            return plain_value(node)
        if kind is Any:
            return plain_value(node)
    wanted = " or ".join(_words(kind) for kind in kinds)
    raise ValueError(
        f"{name} must be {wanted}, not {_brief(node)} (line {node.start_mark.line + 1})"
    )


def _list(node: SequenceNode, kind: object, name: str) -> list[Any]:
    inner = get_args(kind)
    if not inner:
        return [plain_value(one) for one in node.value]
    fixed = len(inner) > 1 and inner[-1] is not Ellipsis
    if fixed and len(inner) != len(node.value):
        raise ValueError(f"{name} must have {len(inner)} entries, not {len(node.value)}")
    hints = inner if fixed else [inner[0]] * len(node.value)
    return [_typed(one, hint, name, {}) for one, hint in zip(node.value, hints, strict=True)]


_NO = object()
_ORDER: tuple[Any, ...] = (bool, int, float, str)


def _strictness(kind: object) -> int:
    """The order of trial: Literals and null first, texts last."""
    return _ORDER.index(kind) if kind in _ORDER else -1


def _scalar(node: ScalarNode, kind: object) -> Any:
    text = node.value
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), _NO)
    if kind is types.NoneType:
        return None if _is_null(node) else _NO
    if kind is bool:
        return FACTS.get(text.lower(), _NO)
    if kind in (int, float):
        number = _number(text)
        if number is None or (kind is int and isinstance(number, float)):
            return _NO
        return kind(number)
    return text if kind is str and not _is_null(node) else _NO


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (tuple, list):
        inner = get_args(kind)
        return "a list" + (f" of {_words(inner[0])}" if inner else "")
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return known.get(kind, "null" if kind is types.NoneType else "settings")


def _brief(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return "null" if _is_null(node) else f"{node.value!r:.60}"
    return "a list" if isinstance(node, SequenceNode) else "a section"

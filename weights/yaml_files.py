"""Reads YAML files. Nothing in a file can run, and no file takes much time or memory.

PyYAML only parses: it makes nodes with tags and texts, and no objects. A tag must be one of TAGS. A
few hundred bytes of nested aliases can mean more values than fit in memory, so each alias counts
with all its values. No key may repeat.

YAML 1.1 reads `off` as false, `1e-3` as text and `22:05` as 1,325. Here `off` and `22:05` are
texts, and `1e-3` is a number. Where the type of a value is known, command_line/yaml_settings.py
reads it by that type.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES, MAX_VALUES, MAX_DEPTH = 1 << 18, 100_000, 32
TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in (
        *("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map"),
        "python/tuple",  # what yaml.dump makes of one
    )
}
NULLS = ("", "~", "null", "Null", "NULL")
BOOLEANS = {"true": True, "True": True, "TRUE": True}
BOOLEANS |= {"false": False, "False": False, "FALSE": False}
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
    with naming(path):
        node = parse_yaml(read_text(path))
        if not isinstance(node, MappingNode):
            raise ValueError("it holds no settings")
        return plain_value(node), node


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context that puts the file's name before the text of an error."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError if it is too large, or not UTF-8."""
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


def parse_yaml(text: str) -> Node | None:
    """The checked nodes of a YAML text; None if it is empty.

    Raises:
        ValueError: the text is not YAML, has a key twice, an unknown tag, or more than the bounds
            allow.
    """
    try:
        node = yaml.compose(text, Loader=_ShallowLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    if node is not None:
        _Checker().check(node, depth=0)
    return node


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
    """Checks nodes, and counts them as often as aliases repeat them."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, node: Node, depth: int) -> None:
        """Raise ValueError if a node or one below it breaks a rule."""
        line = line_of(node)
        self.count += 1
        if self.count > MAX_VALUES:
            raise ValueError(f"it expands to more than {MAX_VALUES:,} values, aliases included")
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} deep, or in itself")
        if node.tag not in TAGS:
            raise ValueError(f"line {line} has the tag {node.tag!r:.60}, which no settings need")
        if isinstance(node, SequenceNode):
            for entry in node.value:
                self.check(entry, depth + 1)
        if isinstance(node, MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                _check_key(key, lines)
                self.check(value, depth + 1)


def _check_key(key: Node, lines: dict[str, int]) -> None:
    """Add a key to `lines`, the lines of the keys before it in the same mapping. Raises ValueError
    if it is there."""
    line = line_of(key)
    if not isinstance(key, ScalarNode):
        raise ValueError(f"line {line} has a key that is not text")
    if key.value in lines:
        raise ValueError(
            f"{key.value!r:.60} appears twice, in lines {lines[key.value]} and {line}; join the two"
        )
    lines[key.value] = line


def line_of(node: Node) -> int:
    """The line of the file on which a node begins."""
    return node.start_mark.line + 1


def plain_value(node: Node | None) -> Any:
    """The values of checked nodes: dicts, lists, texts, numbers, true, false and null."""
    if node is None:
        return None
    if isinstance(node, SequenceNode):
        return [plain_value(entry) for entry in node.value]
    if isinstance(node, MappingNode):
        return merged(node, lambda key, value: plain_value(value))
    assert isinstance(node, ScalarNode)
    return node.value if node.style else _plain_scalar(node.value)


def merged(node: MappingNode, read: Callable[[ScalarNode, Node], Any]) -> dict[str, Any]:
    """A mapping's values by key, `read(key, value)` for each. Its own keys override those merged
    by <<."""
    inherited: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in node.value:
        if key.value == "<<" and not key.style:
            parents = value.value if isinstance(value, SequenceNode) else [value]
            for parent in reversed(parents):
                if not isinstance(parent, MappingNode):
                    raise ValueError(f"line {line_of(key)}: << merges no settings")
                inherited |= merged(parent, read)
        else:
            own[key.value] = read(key, value)
    return inherited | own


def _plain_scalar(text: str) -> str | float | bool | None:
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    number = read_number(text)
    return text if number is None else number


def read_number(text: str) -> int | float | None:
    """The number that a text means; None for any other text."""
    if INT.fullmatch(text):
        return int(text)
    if NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float(text) if FLOAT.fullmatch(text) else None


def is_null(node: Node) -> bool:
    """True for an unquoted null, or for nothing at all."""
    return isinstance(node, ScalarNode) and not node.style and node.value in NULLS

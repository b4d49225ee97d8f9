"""YAML files: values are read by the field's type, within limits, and no key may repeat."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from command_line.yaml_settings import read_settings
from weights.yaml_files import read_yaml


@dataclass(frozen=True)
class Inner:
    spike: Literal["off", "skip", "null"] = "skip"
    rate: float = 0.5
    steps: int = 1
    bias: bool = False
    size: int | Literal["auto"] = 0
    until: str = ""
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    folder: str | None = "here"
    source: tuple[str, ...] = field(default=(), metadata={"nargs": "*", "help": ""})
    inner: Inner = field(default_factory=Inner)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(
        lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    )


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "settings.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("spike", "off", "off"),
        ("spike", "null", "null"),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("rate", ".5", 0.5),
        ("steps", "4_000", 4000),
        ("bias", "on", True),
        ("bias", "no", False),
        ("size", "auto", "auto"),
        ("size", "8", 8),
        ("until", "22:05", "22:05"),
        ("until", "2024-01-01", "2024-01-01"),
        ("until", "007", "007"),
        ("texts", "[no, 12, 'null', 1e3]", ["no", "12", "null", "1e3"]),
        ("numbers", "[1, 2]", [1, 2]),
    ],
)
def test_a_word_means_what_its_field_does(tmp_path: Path, name: str, text: str, value: Any) -> None:
    path = written(tmp_path, f"inner:\n  {name}: {text}\n")
    assert read_settings(path, Outer) == {"inner": {name: value}}


def test_null_one_for_several_and_empty_sections_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "folder: null\nsource: one.tar\ninner:\n")
    assert read_settings(path, Outer) == {"folder": None, "source": ["one.tar"], "inner": {}}
    assert read_settings(written(tmp_path, "# nothing\n"), Outer) == {}


def test_merged_settings_give_way_to_a_section_s_own(tmp_path: Path) -> None:
    path = written(tmp_path, "inner: &i {steps: 3, rate: 1}\n")
    assert read_settings(path, Outer)["inner"] == {"steps": 3, "rate": 1.0}
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n"
    assert read_yaml(written(tmp_path, text))["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 100,000 values"),
        ("inner: &a {rate: *a}", "in itself"),
        ("[" * 200_000, "nested more than"),
        ("- " * 100_000, "nested more than"),
        ("a" * 300_000, "larger than 262,144 bytes"),
        (b"\xff\xfea", "is not UTF-8 text"),
        (b"\x80", "is not UTF-8 text"),
        ("inner:\n  rate: 1\ninner:\n  steps: 2\n", "'inner' appears twice, in lines 1 and 3"),
        ("inner:\n  rate: 1\n  rate: 2\n", "'rate' appears twice, in lines 2 and 3"),
        ("inner: {rat: 1}", "line 1 has the unknown setting 'inner.rat'; did you mean rate"),
        ("inner: {rate: high}", r"inner.rate must be a number, not 'high' \(line 1\)"),
        ("inner: {rate: [1]}", "inner.rate must be a number, not a list"),
        ("inner: {bias: 2}", "inner.bias must be true or false"),
        ("inner: {steps: 1.5}", "inner.steps must be a whole number"),
        ("inner: {steps: 1:30}", "inner.steps must be a whole number"),
        ("inner: {texts: 5}", "inner.texts must be a list of text"),
        ("inner: {until: null}", "inner.until must be text, not null"),
        ("inner: {spike: away}", "inner.spike must be one of off, skip, null"),
        ("inner: 5", "inner is not a section of settings but '5'"),
        ("[]", "it is not a section of settings but a list"),
        ("? [a]\n: 1", "a key that is not text"),
        ("folder: !!python/object/apply:os.system [ls]", "has the tag"),
        ("folder: !!binary aGk=", "has the tag"),
        ("folder: \x1b[2J", "not allowed"),
        ("a: b: c", "not allowed here"),
    ],
)
def test_a_senseless_file_is_refused_quickly_in_one_line_with_its_name(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(written(tmp_path, text), Outer)
    assert time.process_time() - start < 5
    assert str(caught.value).startswith(f"{tmp_path}/settings.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is not a file"):
        read_yaml(tmp_path)
    with pytest.raises(ValueError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_plain_values_are_what_yaml_dumps(tmp_path: Path) -> None:
    tree = {"a": {"b": [1, -2.5, 1e-07, True, None, "true", "1", ""]}, "t": (1, 2), "d": "é😀"}
    found = read_yaml(written(tmp_path, yaml.dump(tree, allow_unicode=True)))
    assert found == {**tree, "t": [1, 2]}
    assert read_yaml(written(tmp_path, "made: 2020-01-01"))["made"] == "2020-01-01"

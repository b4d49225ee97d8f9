"""No flag without its reason: the docstring under every field of a configuration is in --help."""

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from config import parse_config

ROOT = Path(__file__).parent.parent


def find_class(path: Path, name: str) -> type:
    """The class of that name, from the file itself or from where the file imports it."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            module = str(node.module)
    return getattr(importlib.import_module(module), name)


def command_lines() -> dict[str, type]:
    """Program and configuration class of every `run(main, Class, prog=…)` in the repository."""
    found = {}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "run":
                keywords = {k.arg: k.value for k in node.keywords}
                if "prog" in keywords and "tests" not in path.parts:
                    prog = ast.literal_eval(keywords["prog"])
                    found[prog] = find_class(path, ast.unparse(node.args[1]))
    return found


COMMAND_LINES = command_lines()


def docstrings(config_class: type) -> dict[str, str]:
    """The string below each field, by the field's name; inherited fields too, unless the class has
    its own."""
    found: dict[str, str] = {}
    for one in filter(dataclasses.is_dataclass, reversed(config_class.__mro__)):
        tree = ast.parse(inspect.cleandoc(inspect.getsource(one)))
        body = tree.body[0].body  # type: ignore[attr-defined]
        found |= {
            ast.unparse(field.target): " ".join(ast.literal_eval(below.value).split())
            for field, below in pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
        }
    return found


def entries(config_class: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each flag of the tree, and what --help has to say of it."""
    reasons = docstrings(config_class)
    kinds = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        name, kind = f"{prefix}{field.name}", kinds[field.name]
        assert reasons.get(field.name), f"{config_class.__name__}.{name}: no docstring under it"
        if dataclasses.is_dataclass(kind):
            yield f"--{name}", f"{reasons[field.name].rstrip('.')}:"
            yield from entries(kind, f"{name}.")
        elif "help" in field.metadata:
            yield name if field.metadata.get("positional") else f"--{name}", field.metadata["help"]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            yield f"--{name}", f"{reasons[field.name]} (required, type: "
        else:
            yield f"--{name}", f"{reasons[field.name]} (type: "


def test_every_program_is_found() -> None:
    named = {"train.py", "generate.py", "python -m evaluate", "python -m vqgan.train"}
    assert (
        named
        | {"python -m data.artists", "python -m data.emoji"}
        | {"python -m data.encode", "python -m release"}
        <= COMMAND_LINES.keys()
    )


@pytest.mark.parametrize("prog", sorted(COMMAND_LINES))
def test_every_flag_stands_in_help_with_its_reason(
    prog: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100000")  # no line is broken
    with pytest.raises(SystemExit) as stopped:
        parse_config(COMMAND_LINES[prog], ["--help"], prog)
    assert not stopped.value.code
    told = " ".join(capsys.readouterr().out.split())
    for flag, reason in entries(COMMAND_LINES[prog]):
        assert flag in told
        assert reason in told, f"{prog} {flag}"

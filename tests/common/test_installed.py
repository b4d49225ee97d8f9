"""Another Python than the installed one is named in one line."""

import ast
import sys

import pytest

from common import installed
from tests.source_tree import ROOT


@pytest.mark.parametrize("name", ["common/installed.py", "common/terminal.py", "runtime.py"])
def test_older_pythons_can_read_what_names_them(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 8))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asked = [node.returns for node in functions]
    asked += [argument.annotation for node in functions for argument in node.args.args]
    if any(isinstance(one, ast.Subscript | ast.BinOp) for one in asked):  # list[int], int | None
        assert ast.unparse(tree.body[1]) == "from __future__ import annotations"


def test_an_old_python_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 6, "final", 0))
    monkeypatch.setattr(sys, "version", "3.9.6 (default, of a Mac)")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "data" / "encode.py")])
    with pytest.raises(SystemExit) as ended:
        installed.check()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"data/encode.py: {sys.executable} is Python 3.9.6, and Pastel needs 3.11 or newer; start "
        "it with .venv/bin/python, which `make install` makes"
    )


def test_an_installation_that_was_cut_short_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(installed, "NEEDED", ("jax", "nowhere1", "nowhere2", "none3", "none4"))
    with pytest.raises(SystemExit):
        installed.check()
    assert " has no nowhere1, nowhere2, none3 and 1 more; " in capsys.readouterr().err

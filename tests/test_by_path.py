"""Commands in packages also run as files: python vqgan/train.py is python -m vqgan.train."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import FILES, ROOT, calls_of_run, name_of, syntax

BLOCK = "if __name__ == '__main__' and (not __package__):"
COMMANDS = [path for path in FILES if path.parent.parent == ROOT and calls_of_run(path)]


def test_there_are_such_commands() -> None:
    assert {"vqgan/train.py", "data/encode.py", "clip/train.py"} <= set(map(name_of, COMMANDS))


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_its_folder_makes_way_for_the_root_before_anything_of_ours_is_imported(path: Path) -> None:
    _, first, second, *_ = syntax(path).body
    assert ast.unparse(first) == "import sys"
    assert ast.unparse(second).startswith(BLOCK)


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_its_packages_are_looked_for_before_any_is_imported(path: Path) -> None:
    _, _, _, third, fourth, *_ = syntax(path).body
    by_runtime = ["import runtime", "runtime.prepare()"]
    asked = "if __name__ == '__main__':\n    from common import installed\n    installed.check()"
    assert ast.unparse(third) == asked or [ast.unparse(third), ast.unparse(fourth)] == by_runtime


@pytest.mark.parametrize("name", ["data/check.py", "vqgan/train.py"])
def test_it_runs_as_a_file_from_anywhere(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / name), "--help"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout

"""Commands in packages also run as files: python vqgan/train.py is python -m vqgan.train. They
name another Python in one line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import FILES, ROOT, calls_of_run, name_of, syntax

PATH = "sys.path[0] = sys.path[0].rpartition('/')[0]"
IN_ONE_BLOCK = f"""\
if __name__ == '__main__':
    if not __package__:
        {PATH}
    from common import installed
    installed.check()"""
BY_RUNTIME = [
    f"if __name__ == '__main__' and (not __package__):\n    {PATH}",
    "import runtime",
    "runtime.prepare()",
]
COMMANDS = [path for path in FILES if path.parent.parent == ROOT and calls_of_run(path)]


def test_there_are_such_commands() -> None:
    assert {"vqgan/train.py", "data/encode.py", "clip/train.py"} <= set(map(name_of, COMMANDS))


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_path_and_packages_come_before_any_import_of_ours_and_theirs(path: Path) -> None:
    first, *following = [ast.unparse(node) for node in syntax(path).body[1:5]]
    assert first == "import sys"
    assert following[0] == IN_ONE_BLOCK or following == BY_RUNTIME


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

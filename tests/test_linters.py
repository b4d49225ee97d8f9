"""The linters find the faults that they should find. A rule that is switched off is noticed."""

import subprocess
import sys
import tomllib

import pytest

from tests.source_tree import ROOT

SHAPES = (
    'from jaxtyping import Array, Float\n\n\ndef f(x: Float[Array, " b"]) -> Float[Array, "b d"]:\n'
)


def ruff(code: str) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "model/planted.py", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize("shape", ["    return x[:, None]\n", "    return valeu[:, None]\n"])
def test_an_undefined_name_is_found_and_a_shape_is_none(shape: str) -> None:
    assert ("F821" in ruff(SHAPES + shape)) == ("valeu" in shape)


def test_mypy_looks_for_undefined_names_too() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "name-defined" not in settings["disable_error_code"]

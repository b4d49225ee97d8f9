"""Exit codes of the commands that write files: 0 done, 2 a mistake in one line, 130 Ctrl-C."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evaluate
import generate
import release
from command_line.parser import run

COMMANDS: dict[str, tuple[Callable[[Any], None], type, list[str]]] = {
    "generate.py": (
        generate.main,
        generate.GenerateConfig,
        ["--checkpoint={run}", "--prompts=a", "--out={out}"],
    ),
    "python -m evaluate": (
        evaluate.main,
        evaluate.EvaluateConfig,
        ["{run}", "--pictures=1", "--half=all", "--grid={out}.png"],
    ),
    "python -m release": (
        release.release,
        release.ReleaseConfig,
        ["--checkpoint={run}", "--out={out}"],
    ),
}


def end(prog: str, words: list[str], monkeypatch: pytest.MonkeyPatch, main: Any = None) -> int:
    """The exit code of a command with these arguments."""
    usual, config_class, _ = COMMANDS[prog]
    monkeypatch.setattr(sys, "argv", [prog, *words])
    try:
        run(main or usual, config_class, prog=prog, about="")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(params=list(COMMANDS))
def prog(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def words(prog: str, run_folder: Path, tmp_path: Path) -> list[str]:
    return [word.format(run=run_folder, out=tmp_path / "out") for word in COMMANDS[prog][2]]


def test_0_when_everything_was_written(
    prog: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end(prog, words, monkeypatch) == 0


@pytest.mark.parametrize("odd", ["--seeed=1", "--config=nowhere.yaml"])
def test_2_for_a_mistake(
    prog: str,
    words: list[str],
    odd: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert end(prog, [*words, odd], monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith(f"{prog}: ")
    assert odd.partition("=")[0] in line or "nowhere.yaml" in line


def test_130_for_ctrl_c(prog: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    assert end(prog, words, monkeypatch, interrupted) == 130


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "data/encode.py", "vqgan/train.py"])
@pytest.mark.parametrize("is_module", [False, True])
def test_another_python_than_the_installed_one_is_named(script: str, is_module: bool) -> None:
    words = ["-m", script.removesuffix(".py").replace("/", ".")] if is_module else [script]
    ran = subprocess.run([sys.executable, "-S", "-E", *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{script}: {sys.executable} has no jax")
    assert "start it with .venv/bin/python" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1

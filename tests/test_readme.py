"""The README's commands are real, and its tree names every file."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.race.driver import FIGURES
from config import parse_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = {
    "train": "Config",
    "generate": "GenerateConfig",
    "evaluate": "EvaluateConfig",
    "data.encode": "EncodeConfig",
    "vqgan.train": "VQGANRunConfig",
    "model.pretrained": "ConvertConfig",
    "vqgan.pretrained": "ConvertConfig",
    "experiments.footprint": "FootprintConfig",
    "benchmarks.sampling": "SamplingBenchmark",
    "benchmarks.training": "TrainingBenchmark",
    "benchmarks.race.driver": "RaceConfig",
}


def commands() -> list[str]:
    """Every line of a shell block that starts Python, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(\.venv/bin/)?python ", line)]


def test_there_are_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("command", commands())
def test_each_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)[1:]
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
    flags = words[2:] if words[0] == "-m" else words[1:]
    config_class = getattr(importlib.import_module(name), CONFIGS[name])
    assert parse_config(config_class, flags) is not None


def test_every_race_has_a_row_and_every_row_a_race() -> None:
    rows = README[README.index("| race |") :].partition("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(FIGURES)


def test_the_tree_names_every_file() -> None:
    tree = README[README.index("## The code") :]
    files = list(ROOT.glob("*.py"))
    for package in ("model", "vqgan", "weights", "data", "optim", "training", "experiments"):
        files += (ROOT / package).glob("*.py")
    assert not [
        p.name for p in files if p.stem not in ("__init__", "config") and p.name not in tree
    ]


def test_every_file_it_names_is_there() -> None:
    there = {path.name for path in ROOT.glob("[!.]*/**/*.py")} | {p.name for p in ROOT.glob("*.py")}
    named = set(re.findall(r"\b\w+\.py\b", README))
    assert named <= there, named - there
    for path in re.findall(r"\btests/[\w/]+\.py\b", README):
        assert (ROOT / path).is_file(), path


def test_no_figure_is_missing() -> None:
    assert not re.search(r"\b[A-Z]{4,}(TABLE|TIME|MEM|SPEED|GUIDE|TEMP|PAR|STEPS|DB)\b", README)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture

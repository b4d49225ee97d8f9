"""The commands and files in README and docs/ exist, and docs/code.md names every file."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.race.driver import FIGURES
from command_line.parser import parse_config
from training.devices.agreement import PARTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PATHS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "sweeps/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS}
HELD_BY_OTHERS = {"docs/layouts.md"}  # a test writes this page and checks its commands
CONFIGS = {
    "train": "Config",
    "generate": "GenerateConfig",
    "app": "AppConfig",
    "clip.train": "ClipRunConfig",
    "evaluate": "EvaluateConfig",
    "release": "ReleaseConfig",
    "data.artists": "ArtistsConfig",
    "data.composed": "ComposedConfig",
    "data.emoji": "EmojiConfig",
    "data.encode": "EncodeConfig",
    "data.encoded": "EncodedConfig",
    "data.filter": "FilterConfig",
    "data.report": "ReportConfig",
    "vqgan.train": "VQGANRunConfig",
    "model.pretrained": "ConvertConfig",
    "vqgan.pretrained": "ConvertConfig",
    "experiments.footprint": "FootprintConfig",
    "experiments.compare": "CompareConfig",
    "experiments.logbook": "LogbookConfig",
    "experiments.report": "ReportConfig",
    "experiments.results": "ResultsConfig",
    "experiments.time_to_target": "TimeToTargetConfig",
    "sweep": "SweepConfig",
    "benchmarks.sampling": "SamplingBenchmark",
    "benchmarks.training": "TrainingBenchmark",
    "benchmarks.race.driver": "RaceConfig",
}


def commands() -> list[str]:
    """Every command in a shell block that starts Python."""
    parts = [part for page in PAGES for line in shell_lines(page) for part in line.split("; ")]
    parts = [part.removeprefix("do ") for part in parts]
    parts = [part.partition(" > ")[0] for part in parts if " -c " not in part]
    return [part for part in parts if re.match(r"(\.venv/bin/)?python ", part)]


def shell_lines(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def prose(page: str) -> str:
    """The text of a page without code blocks, tables, headings and pictures."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "#", "!")))


def test_there_are_commands() -> None:
    assert len(commands()) >= 20


@pytest.mark.parametrize("command", commands())
def test_each_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.replace("$s", "0"))[1:]
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
    flags = words[2:] if words[0] == "-m" else words[1:]
    config_class = getattr(importlib.import_module(name), CONFIGS[name])
    assert parse_config(config_class, flags) is not None


def test_every_target_of_make_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for line in shell_lines(page)]
    named = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"install", "app"} <= named <= targets


def test_every_block_is_of_shell_or_of_no_language() -> None:
    """Blocks of another language would not be checked."""
    kinds = {k for text in PAGES.values() for k in re.findall(r"^```(\w+)", text, re.MULTILINE)}
    assert kinds == {"sh"}


def test_every_race_has_a_row_and_every_row_a_race() -> None:
    rows = README[README.index("| race |") :].partition("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(FIGURES)


def test_the_tree_names_every_file() -> None:
    tree = PAGES["docs/code.md"]
    files = list(ROOT.glob("*.py"))
    for package in (*PARTS, "trials", "experiments"):
        files += (ROOT / package).rglob("*.py")
    assert not [
        p.name for p in files if p.stem not in ("__init__", "config") and p.name not in tree
    ]


def test_every_file_it_names_is_there() -> None:
    there = {path.name for path in ROOT.glob("[!.]*/**/*.py")} | {p.name for p in ROOT.glob("*.py")}
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"\b\w+\.py\b", text))
    assert named <= there, named - there
    for path in re.findall(r"\btests/[\w/]+\.py\b", text):
        assert (ROOT / path).is_file(), path


def test_no_figure_is_missing() -> None:
    assert not re.search(r"\b[A-Z]{4,}(TABLE|TIME|MEM|SPEED|GUIDE|TEMP|PAR|STEPS|DB)\b", README)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", PAGES[page]):
        place, _, part = target.partition("#")
        if "://" in target:
            continue
        path = (ROOT / page).parent / place
        assert path.exists(), target
        titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE) if part else [part]
        assert part in [title.lower().replace(",", "").replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", sorted(set(PAGES) - HELD_BY_OTHERS))
def test_sentences_and_lines_are_short(page: str) -> None:
    text = prose(page)
    assert not [line for line in text.splitlines() if len(line) > 120]
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:-|\d+\.) ", text):
        for sentence in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split())):
            assert len(re.findall(r"\S*\w\S*", sentence)) <= 25, sentence


def test_the_walk_through_a_run_names_each_file_once() -> None:
    named = re.findall(r"\]\(\.\./([\w/]+\.py)\)", PAGES["docs/one_run.md"])
    assert len(named) == len(set(named))
    spine = ("session.py", "recipe.py", "update/build.py", "update/step.py")
    needed = {name for part in spine for name in imports_of(ROOT / "training" / part)}
    assert {f"{module.replace('.', '/')}.py" for module in needed} - {"training/spans.py"} <= set(
        named
    )


def imports_of(path: Path) -> set[str]:
    """The modules of training/ that a file imports."""
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    names = {
        n for node in nodes for n in (node.module, *(f"{node.module}.{a.name}" for a in node.names))
    }
    is_file = lambda name: (ROOT / f"{name.replace('.', '/')}.py").is_file()  # noqa: E731
    return {name for name in names if name and name.startswith("training.") and is_file(name)}


def test_the_walk_refers_to_its_own_steps() -> None:
    page = PAGES["docs/one_run.md"]
    steps = dict(re.findall(r"^(\d+)\. (.*(?:\n {2,}.*)*)", page, re.MULTILINE))
    assert list(steps) == [str(n + 1) for n in range(len(steps))]
    about = page.partition("## Where the order is not straight")[2]
    for number, name in {
        "12": "make_recipe",
        "15": "make_state",
        "21": "first_state",
        "26": "open_batches",
        "27": "hooks",
        "28": "make_parts",
        "29": "compile_step",
        "30": "fit",
    }.items():
        assert name in steps[number]
        assert re.search(rf"\b{number}\b", about), number

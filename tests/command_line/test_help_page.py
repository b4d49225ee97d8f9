"""Every flag is explained: --help prints the docstring under each field of a configuration."""

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from command_line.help_page import first_sentence, is_required, likely_flags
from command_line.parser import parse_config
from common.settings import settings_of
from config import Config
from tests.source_tree import FILES, ROOT, calls_of_run, syntax


def find_class(path: Path, name: str) -> type:
    """The class with this name, defined in the file or imported by it."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            module = str(node.module)
    return getattr(importlib.import_module(module), name)


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """The arguments of one call `run(main, Class, prog=…, about=__doc__, first=…)`."""

    config_class: type
    about: str
    first: tuple[str, ...]


def command_lines() -> dict[str, CommandLine]:
    found = {}
    for path in FILES:
        for call in calls_of_run(path):
            keywords = {k.arg: k.value for k in call.keywords}
            prog = ast.literal_eval(keywords["prog"])
            assert ast.unparse(keywords["about"]).startswith("__doc__"), path
            config_class = find_class(path, ast.unparse(call.args[1]))
            first = constant(syntax(path), "FIRST_IN_HELP") if "first" in keywords else ()
            about = ast.get_docstring(syntax(path)) or ""
            found[prog] = CommandLine(config_class, about, first)
    return found


def constant(tree: ast.Module, name: str) -> tuple[str, ...]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return eval(ast.unparse(node.value))  # a tuple of tuples of texts
    raise AssertionError(f"no {name}")


COMMAND_LINES = command_lines()
LONG = {
    *("train.py", "generate.py", "python -m evaluate", "python -m data.encode"),
    "python -m vqgan.train",
}


def docstrings(config_class: type) -> dict[str, str]:
    """Field → the docstring below it. Inherited fields are included, unless the class redefines
    them."""
    found: dict[str, str] = {}
    for config in filter(dataclasses.is_dataclass, reversed(config_class.__mro__)):
        tree = ast.parse(inspect.cleandoc(inspect.getsource(config)))
        body = tree.body[0].body  # type: ignore[attr-defined]
        found |= {
            ast.unparse(field.target): " ".join(ast.literal_eval(below.value).split())
            for field, below in pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
        }
    return found


def entries(config_class: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(flag, text that --help must contain) for each setting of the tree."""
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
        parse_config(COMMAND_LINES[prog].config_class, ["--help"], prog)
    assert not stopped.value.code
    output = " ".join(capsys.readouterr().out.split())
    for flag, reason in entries(COMMAND_LINES[prog].config_class):
        assert flag in output
        assert reason in output, f"{prog} {flag}"


@pytest.mark.parametrize("prog", sorted(COMMAND_LINES))
def test_the_first_screen_has_an_example_and_what_one_always_needs(
    prog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = COMMAND_LINES[prog]
    with pytest.raises(SystemExit):
        parse_config(one.config_class, ["--help"], prog, one.about, one.first)
    output = capsys.readouterr().out
    screen = output.splitlines()[:24]
    assert max(map(len, screen)) <= 100
    program = f"python {prog}" if prog.endswith(".py") else prog
    assert screen[0].startswith(f"usage: {program}")
    assert any(line.startswith(program) for line in screen), "no example"
    settings = {found.name: found for found in settings_of(one.config_class)}
    required = [name for name, found in settings.items() if is_required(found)]
    assert (len(one.first) == 10) == (prog in LONG)
    for name in {*one.first[:5], *required}:
        assert name == "config" or name in settings
        words = (f"  --{name}", f"  {name.upper()}")
        assert any(line.startswith(words) for line in screen), name
    opened = output.partition("all flags, by section:")[0]
    assert all(f"  --{name}" in opened or f"  {name.upper()}" in opened for name in one.first)


def test_no_flag_s_reason_is_cut_within_brackets() -> None:
    assert first_sentence("A (Lee et al. 2020, e.g. here). B.") == "A (Lee et al. 2020, e.g. here)"
    assert first_sentence("Lee et al. have it; 1.5 more. Two") == "Lee et al. have it; 1.5 more"
    assert first_sentence("no end") == "no end"


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        *(("--steps", "training.steps"), ("--norm", "model.norm"), ("--dim", "model.dim")),
        *(("--lr", "optim.learning_rate"), ("--batch", "training.batch_size")),
        *(("--batch-size", "training.batch_size"), ("--optim.lr", "optim.learning_rate")),
        *(("--learning-rate", "optim.learning_rate"), ("--training.lr", "optim.learning_rate")),
        *(("--optimizer", "optim.name"), ("--records", "data.records")),
        *(
            ("--warmup", "optim.warmup_steps"),
            ("--output", "output_dir"),
            ("--wandb", "tracker.wandb"),
        ),
        *(("--model.dmi", "model.dim"), ("--training.stesp", "training.steps")),
        *(("--top-k", "sampling.top_k"), ("--heads", "model.num_heads")),
        *(("--prompts", "grids.prompts"), ("--folder", "checkpoint.folder")),
        *(("--wd", "optim.weight_decay"), ("--tensorbord", "tracker.tensorboard")),
    ],
)
def test_a_flag_by_its_last_word_or_first_letters_is_understood(flag: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"^unknown flag {flag}; did you mean --{wanted}\b"):
        parse_config(Config, [f"{flag}=1"])


def test_a_flag_that_means_nothing_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match=r"^unknown flag --xyzzy; see --help$"):
        parse_config(Config, ["--xyzzy=1"])


def test_the_place_that_was_named_decides_between_two() -> None:
    assert (
        likely_flags("--checkpoint.evry", ["grids.every", "checkpoint.every"])[0]
        == "checkpoint.every"
    )
    assert likely_flags("--every", ["grids.every", "checkpoint.every"]) == [
        "grids.every",
        "checkpoint.every",
    ]

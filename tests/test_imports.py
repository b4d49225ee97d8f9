"""Import rules: which package may import which."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.source_tree import ALL_FILES, FILES, ROOT, first_names, modules, name_of, part_of, syntax

# For each package, and each file in the root: the parts of ours that it may import. A part that is
# missing here fails the test: add it with its imports.
ALLOWED = {
    "model": {"model"},
    "vqgan": {"vqgan", "model", "weights"},
    "clip": {"clip", "model", "weights"},
    "published": {"clip", "published", "model", "vqgan", "weights"},
    "weights": {"weights"},
    "data": {"data"},
    "optim": {"optim"},
    "training": {"training", "optim"},
    "trials": {"trials", "weights"},
    "common": {"common"},
    "command_line": {"command_line", "weights"},
    "config": {"command_line", "config", "data", "model", "training"},
    "starting": {
        *("config", "data", "model", "optim", "published", "starting", "training", "vqgan"),
        "weights",
    },
    "drawing": {
        *("clip", "config", "data", "drawing", "model", "optim", "starting", "training"),
        *("vqgan", "weights"),
    },
    "evaluation": {"data", "drawing", "evaluation"},
    "release_card": {"data", "drawing", "evaluation", "model"},
    "runtime": set(),
}
COMMON = {"common"}  # every part may import it
# Entry points compose the parts and may import all of them; nothing imports an entry point.
BESIDE_THE_PACKAGES = {"app.py", "train.py", "generate.py", "evaluate.py", "release.py", "sweep.py"}
RUN_AS_MODULES = {
    "vqgan/train.py",
    "clip/train.py",
    "data/encode.py",
    "data/encoded.py",
    "data/emoji.py",
    "data/artists.py",
    "data/check.py",
    "data/composed.py",
    "data/filter.py",
    "data/report.py",
}
ENTRY_POINTS = BESIDE_THE_PACKAGES | RUN_AS_MODULES
PROGRAMS = {"benchmarks", "experiments"}  # may import everything; they import only one another
# These compose too: recipes, their settings, and readers of pictures or of all programs' weights.
COMPOSERS = {
    "recipe.py",
    "trials/one_process.py",
    "clip/recipe.py",
    "vqgan/recipe.py",
    "vqgan/run_config.py",
    "vqgan/encoder.py",
    "vqgan/sets.py",
    "model/pretrained.py",
    "vqgan/pretrained.py",
}
OURS = {part_of(path) for path in ALL_FILES}
PARTS = [
    path
    for path in FILES
    if name_of(path) not in ENTRY_POINTS | COMPOSERS and part_of(path) not in PROGRAMS
]


def imported_as_module(path: Path) -> set[str]:
    """The parts of ours that are imported when the file is imported. Imports under
    `if __name__ == "__main__"` belong to an entry point and do not count."""
    body = [n for n in syntax(path).body if not ast.unparse(n).startswith("if __name__ ==")]
    return first_names(ast.Module(body, [])) & OURS


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_import_arrows_hold(path: Path) -> None:
    part = part_of(path)
    assert imported_as_module(path) <= ALLOWED[part] | COMMON


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_an_entry_point(path: Path) -> None:
    entry_points = {name.removesuffix(".py").replace("/", ".") for name in ENTRY_POINTS}
    assert not modules(syntax(path)) & entry_points
    others = PROGRAMS - {part_of(path)}
    assert not first_names(syntax(path)) & (others | {"tests"})


def test_every_module_can_be_imported() -> None:
    for path in FILES:
        if part_of(path) != "benchmarks":  # tests/benchmarks imports them, but the peers' adapters
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_the_entry_points_are_those_that_are_there() -> None:
    assert {name_of(path) for path in FILES} >= ENTRY_POINTS


@pytest.mark.parametrize("path", [p for p in PARTS if part_of(p) == "vqgan"], ids=name_of)
def test_the_vqgan_shares_layers_with_the_model_and_nothing_else(path: Path) -> None:
    of_the_model = {m for m in modules(syntax(path)) if m.partition(".")[0] == "model"}
    assert of_the_model <= {"model.layers"}


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) == "data"], ids=name_of)
def test_the_data_package_knows_no_jax(path: Path) -> None:
    if name_of(path) not in ("data/encode.py", "data/report.py"):
        assert not first_names(syntax(path)) & {"jax", "flax", "optax"}


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("matplotlib", "trials/report.py"),
        ("jsonargparse", "command_line/parser.py"),
        ("orbax", "training/saved/disk.py"),
        ("tensorstore", "training/saved/remote.py"),
        ("huggingface_hub", "drawing/hub.py"),
        ("wandb", "training/reports/mirror.py trials/engine.py experiments/report.py"),
        ("tensorboardX", "training/reports/board.py"),
    ],
)
def test_a_vendor_is_touched_in_its_home(library: str, home: str) -> None:
    users = {name_of(path) for path in FILES if library in first_names(syntax(path))}
    assert users == set(home.split())


def test_pmap_is_known_in_one_file() -> None:
    users = {name_of(path) for path in FILES if "pmap(" in path.read_text()}
    assert users == {"training/devices/parallel.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
            assert len(names) <= 7, f"{node.name} has {len(names)} parameters"

"""Who may import whom, so that the house keeps its walls."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "vqgan", "weights", "data", "optim", "training")
ALLOWED = {
    "model": {"model", "weights"},
    "vqgan": {"vqgan", "model", "weights"},
    "weights": {"weights"},
    "data": {"data"},
    "optim": {"optim"},
    "training": {"training", "optim"},
    "config": {"config", "data", "model", "optim", "training"},
    "runtime": set(),
    "drawing": {"config", "data", "drawing", "model", "training", "vqgan", "weights"},
    "ranking": {"data", "model", "ranking"},
}
# Run as `python -m`, they compose like train.py does; nothing but tests imports them.
COMPOSING = {"vqgan/train.py", "data/encode.py", "data/emoji.py"}
FOR_ALL = ("config", "runtime", "drawing", "ranking")
OURS = {*PACKAGES, *FOR_ALL, "train", "generate", "evaluate", "release", "experiments"}
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")) + [
    ROOT / f"{name}.py" for name in FOR_ALL
]


def imported(path: Path, at_top: bool = False) -> set[str]:
    """First parts of the names of imported modules. The `if __name__ == "__main__"` part of a file
    composes, as an entry point does, and does not count."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not ast.unparse(n).startswith("if __name__ ==")]
    found = set()
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def imported_from_model(path: Path) -> set[str]:
    """Its modules by their full name, however they are imported."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            whole = node.module == "model"
            found |= {f"model.{a.name}" for a in node.names} if whole else {str(node.module)}
    return {name for name in found if name.partition(".")[0] == "model"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_import_arrows_hold(path: Path) -> None:
    part = path.relative_to(ROOT).with_suffix("").parts[0]
    if name_of(path) not in COMPOSING:
        assert imported(path) & OURS <= ALLOWED[part]


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "vqgan"], ids=name_of)
def test_the_vqgan_shares_layers_with_the_model_and_nothing_else(path: Path) -> None:
    if name_of(path) not in COMPOSING:
        assert imported_from_model(path) <= {"model.layers"}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "data"], ids=name_of)
def test_the_data_package_knows_no_jax(path: Path) -> None:
    if name_of(path) != "data/encode.py":
        assert not imported(path) & {"jax", "flax", "optax"}


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("jsonargparse", "config.py"),
        ("orbax", "training/disk.py"),
        ("tensorstore", "training/remote.py"),
        ("wandb", "training/mirror.py"),
    ],
)
def test_a_vendor_is_touched_in_one_file(library: str, home: str) -> None:
    users = {name_of(path) for path in FILES if library in imported(path)}
    assert users == {home}


def test_pmap_is_known_in_one_file() -> None:
    users = {name_of(path) for path in FILES if "pmap(" in path.read_text()}
    assert users == {"training/parallel.py"}


def test_files_and_functions_stay_readable() -> None:
    for path in ROOT.glob("**/*.py"):
        if (
            any(part.startswith(".") for part in path.relative_to(ROOT).parts)
            or "tests" in path.parts
        ):
            continue
        text = path.read_text()
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 75, f"{path}: {node.name}"

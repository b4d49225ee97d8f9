"""Everything that is imported is required, and everything that is required is used."""

import ast
import re
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.source_tree import ALL_FILES, FILES, ROOT, first_names, name_of, part_of, syntax

# Not imported here: programs that make or editors start, data files, backends of other packages.
USED_WITHOUT_IMPORT = {
    "beartype": "jaxtyping checks shapes with it, tests/conftest.py says",
    "ipykernel": "nbclient runs notebooks in it",
    "mypy": "make test",
    "pytest-xdist": "make test",
    "ruff": "make test",
    "sweeps": "trials/engine.py imports it by its name, for lack of types",
    "types-pyyaml": "mypy",
    "zstandard": "jax compresses its compilation cache with it, if it is there",
    "wordninja": "data/text/normalise.py reads its list of words",
}
OURS = {part_of(path) for path in ALL_FILES}
FROM_THE_RACE = {"configs", "stubs"}  # its worker puts their folder on sys.path
PEERS = [path for path in FILES if name_of(path).startswith("benchmarks/race/adapters/")]
PEERS += [ROOT / "benchmarks/race/stubs.py"]
IN_OUR_ENVIRONMENT = [path for path in ALL_FILES if path not in PEERS]
DISTRIBUTIONS = packages_distributions()


def required_by(*names: str) -> set[str]:
    """Names of the distributions in requirements files, normalised as a package index does."""
    found = set()
    for name in names:
        for line in (ROOT / name).read_text().splitlines():
            if words := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
                found.add(plain(words[0]))
    return found


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def distributions_of(module: str) -> set[str]:
    """The distributions that provide a module; its own name if it is not installed."""
    return {plain(name) for name in DISTRIBUTIONS.get(module, (module,))}


def without_optional_imports(tree: ast.Module) -> ast.Module:
    """The module without optional imports, which are those in `try: … except ImportError`."""
    optional = {
        id(statement)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(_catches_import_error(h) for h in node.handlers)
        for statement in node.body
    }
    needed = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return ast.Module([n for n in needed if id(n) not in optional], [])


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and "ImportError" in ast.unparse(handler.type)


def not_required(modules: Iterable[str], required: set[str]) -> set[str]:
    """The modules that are not ours, not Python's, and not in a distribution in `required`."""
    others = set(modules) - OURS - FROM_THE_RACE - set(sys.stdlib_module_names)
    return {module for module in others if not distributions_of(module) & required}


@pytest.mark.parametrize("path", [p for p in IN_OUR_ENVIRONMENT if p in FILES], ids=name_of)
def test_everything_imported_is_in_the_requirements(path: Path) -> None:
    required = required_by("requirements.txt")
    assert not not_required(first_names(without_optional_imports(syntax(path))), required)


def test_development_requirements_hold_all_that_tests_and_optional_imports_need() -> None:
    required = required_by("requirements.txt", "requirements-dev.txt")
    required |= required_by("requirements-app.txt", "requirements-app-test.txt")
    for path in IN_OUR_ENVIRONMENT:
        assert not not_required(first_names(syntax(path)), required), path


def test_everything_required_is_used() -> None:
    imported = {name for path in ALL_FILES for name in first_names(syntax(path))}
    used = {name for module in imported for name in distributions_of(module)}
    required = required_by("requirements.txt", "requirements-dev.txt")
    assert required - used == set(USED_WITHOUT_IMPORT)


@pytest.mark.parametrize("path", PEERS, ids=name_of)
def test_make_peers_installs_all_that_the_adapters_import(path: Path) -> None:
    installed = (ROOT / "benchmarks/race/make_peers").read_text()
    for module in not_required(first_names(syntax(path)), set()):
        assert re.search(rf"\b{plain(module)}\b", installed), module


def test_a_missing_requirement_is_found() -> None:
    tree = ast.parse(
        "import flax, einops\ntry:\n    import unidecode\nexcept ImportError:\n    pass"
    )
    needed = first_names(without_optional_imports(tree))
    assert not_required(needed, {"flax"}) == {"einops"}
    assert not_required(first_names(tree), {"flax"}) == {"einops", "unidecode"}

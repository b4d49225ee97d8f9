"""The project's Python files, and what each of them imports."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def name_of(path: Path) -> str:
    """The path relative to the project's root, such as "model/blocks.py"."""
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """The package of a file, or the module name of a file in the project's root."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def is_hidden(path: Path) -> bool:
    """True if the file is in a virtual environment, a cache or the like."""
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


def calls_of_run(path: Path) -> list[ast.Call]:
    """The calls `run(…, prog=…)` in a file: each is a command."""
    if "prog=" not in path.read_text():
        return []
    return [
        node
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "run"
        and any(key.arg == "prog" for key in node.keywords)
    ]


ALL_FILES = sorted(path for path in ROOT.glob("**/*.py") if not is_hidden(path))
FILES = [path for path in ALL_FILES if part_of(path) != "tests"]


@functools.cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def modules(tree: ast.AST) -> frozenset[str]:
    """Full names of all modules that the tree imports. `from a import b` counts as a.b if that is a
    module of ours, else as a."""
    return frozenset(name for node in ast.walk(tree) for name in _named_by(node))


def _named_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        package = node.module or ""
        for alias in node.names:
            is_module = (ROOT / package.replace(".", "/") / f"{alias.name}.py").is_file()
            yield f"{package}.{alias.name}" if is_module else package


def first_names(tree: ast.AST) -> set[str]:
    """The first part of each imported module's name: a package, or a file in the root."""
    return {name.partition(".")[0] for name in modules(tree)}

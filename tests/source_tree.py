"""The project's Python files, and what each of them imports."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def name_of(path: Path) -> str:
    """The path from the project's root, such as "model/blocks.py"."""
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """The package of a file; of a file beside the packages, its own module name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def is_hidden(path: Path) -> bool:
    """Whether the file lies in an environment, a cache or the like."""
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


ALL_FILES = sorted(path for path in ROOT.glob("**/*.py") if not is_hidden(path))
FILES = [path for path in ALL_FILES if part_of(path) != "tests"]


@functools.cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules(tree: ast.AST) -> set[str]:
    """Full names of the modules imported anywhere below. `from a import b` gives a.b, where that is
    a module of ours, and else a."""
    return {name for node in ast.walk(tree) for name in _named_by(node)}


def _named_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        package = node.module or ""
        for alias in node.names:
            is_module = (ROOT / package.replace(".", "/") / f"{alias.name}.py").is_file()
            yield f"{package}.{alias.name}" if is_module else package


def first_names(tree: ast.AST) -> set[str]:
    """First parts of the names of imported modules: packages, and files beside them."""
    return {name.partition(".")[0] for name in modules(tree)}

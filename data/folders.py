"""New folders that appear whole or not at all, and never replace what somebody else put there."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling to write into; rename it to `path` at the end, remove it on failure.

    Raises:
        ValueError: when `path` is there already and is not an empty folder.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's is 0o700, which others could not read
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_free(path: Path) -> None:
    """Raise ValueError when writing to `path` would replace or mix with something."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} is there and holds something else; remove it or name another")


def holds(path: Path, marker: str, description: dict[str, Any]) -> bool:
    """True when `path`'s JSON file `marker` says each thing in `description`."""
    try:
        found = json.loads((path / marker).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and all(found.get(k) == v for k, v in description.items())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with a final newline."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def digest_folder(path: Path) -> str:
    """Short hash of the names and contents of all files below a folder."""
    hashed = hashlib.blake2b(digest_size=8)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        hashed.update(f"{file.relative_to(path)}:{len(content)}:".encode() + content)
    return hashed.hexdigest()

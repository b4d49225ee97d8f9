"""What a folder of ours holds: JSON that describes it, and a hash of its content."""

import hashlib
import json
from pathlib import Path
from typing import Any


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

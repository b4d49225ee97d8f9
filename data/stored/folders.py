"""The JSON file that describes a folder of ours, and a hash of the folder's content."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from common.json_files import read_json

MOST_BYTES = 16 << 30


def holds(path: Path, marker: str, description: Mapping[str, object]) -> bool:
    """True if `path`'s JSON file `marker` has every item of `description`."""
    try:
        content = read_json(path / marker)
    except ValueError:
        return False
    return all(content.get(k) == v for k, v in description.items())


def counts_of(path: Path) -> dict[str, int]:
    """Split → number of pictures, from the JSON file that describes a folder of ours. Raises
    ValueError if the file does not have these numbers."""
    counts = read_json(path).get("counts")
    if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
        raise ValueError(f"{path} does not say counts of pictures; remove {path.parent}")
    return counts


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON with a final newline."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def digest_folder(path: Path) -> str:
    """A short hash of the names and contents of all files below a folder. Raises ValueError if they
    are larger than any tokenizer or VQGAN."""
    hashed, left = hashlib.blake2b(digest_size=8), MOST_BYTES
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        size = file.stat().st_size
        left -= size
        if left < 0:
            raise ValueError(f"{file} is too large: {path} may hold {MOST_BYTES:,} bytes")
        hashed.update(os.fsencode(f"{file.relative_to(path)}:{size}:"))
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                hashed.update(chunk)
    return hashed.hexdigest()

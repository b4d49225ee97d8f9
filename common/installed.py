"""Checks this Python and its packages; imports no package, and nothing newer than Python 3.8."""

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

from common.terminal import MISTAKE

OLDEST = (3, 11)
"""The oldest Python that Pastel runs on."""
NEEDED = (
    *("jax", "flax", "optax", "orbax", "numpy", "jaxtyping", "jsonargparse", "yaml", "PIL"),
    *("safetensors", "tokenizers", "tqdm"),
)
"""Packages without which no command, or nearly none, starts."""
_SHOWN = 3
_ROOT = Path(__file__).parent.parent


def check() -> None:
    """End with one line and exit code 2 if this Python is too old, or lacks a needed package: it is
    another Python than that of `make install`, or the installation was cut short."""
    if sys.version_info[:2] < OLDEST:
        _end(f"is Python {sys.version.split()[0]}, and Pastel needs 3.11 or newer")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        _end(f"has no {', '.join(missing[:_SHOWN])}{more}")


def _end(fault: str) -> NoReturn:
    fix = "start it with .venv/bin/python, which `make install` makes"
    print(f"{_script()}: {sys.executable} {fault}; {fix}", file=sys.stderr)
    raise SystemExit(MISTAKE)


def _script() -> str:
    """The command as a path in the clone: train.py, data/encode.py."""
    path = Path(sys.argv[0]).absolute()
    return str(path.relative_to(_ROOT)) if _ROOT in path.parents else path.name

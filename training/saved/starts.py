"""RUN/environment.json: command, commit, package versions and devices of each start of a run."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from common.files import write_text
from common.json_files import Json, as_list, parse_json, read_list

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


def read(path: Path) -> list[Json]:
    """The starts of a run, oldest first; empty if there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return _checked(read_list(path), path)
    except ValueError as error:
        raise ValueError(f"{error}; it is only a record: move it away, then start again") from None


def parse(data: bytes, name: str) -> list[Json]:
    """The starts in the bytes of an environment.json. Raises ValueError with its `name`."""
    return _checked(as_list(parse_json(data, name), name), name)


def _checked(starts: list[dict[str, object]], name: object) -> list[Json]:
    for number, start in enumerate(starts):
        if not isinstance(start.get("versions"), dict):
            raise ValueError(f"{name}: start {number + 1} has no versions")
    return starts


def write_start(folder: Path, config_yaml: str, devices: str) -> None:
    """Add this start to environment.json. Warn if package versions changed since the last one."""
    write_text(folder / "config.yaml", config_yaml)
    path = folder / "environment.json"
    starts = read(path)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    if starts and starts[-1]["versions"] != versions:
        old = starts[-1]["versions"]
        changed = ", ".join(
            f"{k} {old.get(k)} → {v}" for k, v in versions.items() if old.get(k) != v
        )
        print(f"warning: other package versions ({changed}): bit equality is off", file=sys.stderr)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "versions": versions,
        "devices": devices,
        "host": platform.platform(),
    }
    write_text(path, json.dumps([*starts, start], indent=1))


def _commit() -> str:
    def git(*words: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD") + (
            " (changed)" if git("status", "--porcelain", "-uno") else ""
        )
    except FileNotFoundError:  # no git on this machine
        return ""

"""The contestants: for each a name, its Python interpreter, its adapter, and its settings."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# glibc keeps freed memory and asks for huge pages, so that a step has no page faults. Pastel does
# this itself.
TUNED_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
FAMILIES = {
    "dalle_mini": "dalle_mini",
    "hf_bart": "torch",
    "min_dalle": "torch",
    "dalle_pytorch": "torch",
    "taming": "torch",
}
"""Peer → its virtual environment, made by make_peers."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    text: str
    python: Path
    adapter: Path
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def read_contestant(text: str, peers: Path) -> Contestant:
    """The contestant for `text`, which is NAME or NAME:key=value,key=value.

    A key is a size or a setting of the adapter, with its value in YAML (dtype=bf16,
    use_scan=false). env.NAME=value sets an environment variable; a + in the value becomes a space.
    malloc=tuned sets TUNED_MALLOC.

    Raises:
        ValueError: the name is unknown, its environment is missing, or a setting has no value.
    """
    name, _, options = text.partition(":")
    if name == "pastel":
        python, adapter = ROOT / ".venv/bin/python", ROOT / "benchmarks/contestant.py"
    elif name in FAMILIES:
        python, adapter = peers / FAMILIES[name] / "bin/python", HERE / f"adapters/{name}.py"
    else:
        raise ValueError(f"no contestant {name!r}; there are: pastel, {', '.join(FAMILIES)}")
    if not python.is_file():
        raise ValueError(
            f"{name} needs {python}, which does not exist; run benchmarks/race/make_peers"
        )
    settings: dict[str, Any] = {}
    environment = dict(os.environ) | QUIET
    for option in filter(None, options.split(",")):
        key, is_set, value = option.partition("=")
        if not is_set:
            raise ValueError(f"{option!r} of the contestant {text!r} is not of the form key=value")
        if key.startswith("env."):
            environment[key.removeprefix("env.")] = value.replace("+", " ")
        elif option == "malloc=tuned":
            environment |= TUNED_MALLOC
        else:
            settings[key] = yaml.safe_load(value)
    return Contestant(text, python, adapter, settings, environment)

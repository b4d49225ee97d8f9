"""Checks that all processes of a run have the same settings, code, packages and data.

The processes compare digests. If they differ, the processes exchange the values, report the
differences, and end. Otherwise processes with different learning rates, for example, would train to
the end, and process 0's weights would be saved.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.settings import flatten, to_tree

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PARTS = ("clip", "data", "model", "optim", "published", "training", "vqgan", "weights")
CODE = ("*.py", *(f"{part}/**/*.py" for part in PARTS))
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy"),
    *("tokenizers", "pillow", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
)
ENVIRONMENT = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAX_PLATFORMS"),
    *("JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL"),
    *("JAX_DEFAULT_DTYPE_BITS", "JAX_THREEFRY_PARTITIONABLE", "JAX_NUMPY_DTYPE_PROMOTION"),
    *("JAX_DISABLE_JIT", "JAX_DEBUG_NANS"),
)
"""Environment variables that change results."""
OWN = (
    "parallel.process_id",
    "parallel.coordinator",
    "data.records",
    "data.source",
    "data.validation",
)
"""Settings that may differ: the identity of a process, and the place of its copy of the data, whose
content is compared instead."""
MOST_NAMED = 6
ALONE = "independent runs under one launcher each need --parallel.num_processes=1"


def check_start(config: object) -> None:
    """Raise ValueError in every process unless all have the same settings (a dataclass), code,
    packages and environment."""
    if jax.process_count() > 1:
        check({**settings_of(config), **code(), **packages(), **environment(os.environ)})


def settings_of(config: Any) -> dict[str, str]:
    """Dotted name → value of each setting that must be the same."""
    flat = flatten(to_tree(config))
    return {name: json.dumps(v, default=str) for name, v in flat.items() if name not in OWN}


def code(root: Path = ROOT) -> dict[str, str]:
    """Path → digest of each source file."""
    paths = sorted(path for pattern in CODE for path in root.glob(pattern))
    return {f"the file {path.relative_to(root).as_posix()}": _digest(path) for path in paths}


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def packages() -> dict[str, str]:
    """Name → version of each package that computes."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[f"the package {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[f"the package {name}"] = "none"
    return versions


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change results, without XLA's dump folders."""
    variables = {name: environ.get(name, "") for name in ENVIRONMENT}
    words = (word for word in variables["XLA_FLAGS"].split() if not re.match("--xla_dump", word))
    return variables | {"XLA_FLAGS": " ".join(sorted(words))}


def check(values: Mapping[str, str]) -> None:
    """Raise ValueError in every process, naming the differences, unless all have these values."""
    if jax.process_count() == 1:
        return
    text = json.dumps(dict(values), sort_keys=True)
    digest = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    if (digests == digests[0]).all():
        return
    raise ValueError(describe(list(map(json.loads, gather(text)))))


def describe(processes: list[dict[str, str]]) -> str:
    """A text with the differences of each process from process 0."""
    lines = []
    first, names = processes[0], {name: None for values in processes for name in values}
    for name in names:
        other = next(
            (i for i, values in enumerate(processes) if values.get(name) != first.get(name)), 0
        )
        if other:
            here, there = (_short(values.get(name)) for values in (first, processes[other]))
            lines.append(f"{name} ({here} in process 0, {there} in process {other})")
    more = f", and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
    return (
        f"the processes of this run do not agree: {', '.join(lines[:MOST_NAMED])}{more}; give each "
        f"the same command, code and packages; {ALONE}"
    )


def _short(value: str | None) -> str:
    return "nothing" if not value else value if len(value) <= 80 else value[:77] + "..."


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order. Collective."""
    data = text.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(data))).reshape(-1)
    padded = np.frombuffer(data.ljust(max(int(sizes.max()), 1)), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def call_in_all(make: Callable[[], T]) -> T:
    """The result of `make()`, after it has returned in every process. Collective.

    Raises:
        ValueError: in every process, if `make` raised it in any, such as for a file that is missing
            on one machine.
    """
    if jax.process_count() == 1:
        return make()
    made: list[T] = []
    problem = ""
    try:
        made.append(make())
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
    problems = [(i, text) for i, text in enumerate(gather(problem)) if text]
    if problems:
        raise ValueError(problem or f"process {problems[0][0]}: {problems[0][1]}")
    return made[0]

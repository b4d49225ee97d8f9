"""wandb's sweep engine, the same as on its server: it suggests trials, and stops bad ones early.

Only this file imports the package `sweeps` and wandb's argument builder.
"""

import hashlib
import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trials.ledger import Trial

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it speaks to an older pydantic
    # PyPI's package; by `import`, mypy would take the folder of the same name for it
    _sweeps: Any = importlib.import_module("sweeps")

KEYS: tuple[str, ...] = tuple(
    json.loads((Path(_sweeps.__file__).parent / "config" / "schema.json").read_text())["properties"]
)
"""Keys at the top of a sweep file."""


def violations(settings: Mapping[str, object]) -> list[str]:
    """The engine's error messages about the settings, by its schema."""
    try:
        messages = _sweeps.schema_violations_from_proposed_config(dict(settings))
    except Exception as error:  # it fails on some settings that it should judge
        messages = [str(error)]
    return [" ".join(str(message).split())[:300] for message in messages]


def suggest(
    settings: Mapping[str, object], trials: Sequence[Trial], number: int, seed: int
) -> dict[str, Any] | None:
    """The settings of trial `number`, by name, after these trials; None after the end of a grid. A
    pure function of its arguments: the engine draws from NumPy's generator, seeded here."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=4).digest()
    before = np.random.get_state()
    np.random.seed(int.from_bytes(digest, "big"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Gaussian process with few points
            run = _sweeps.next_run(_filled(settings), [_run_of(settings, t) for t in trials])
    finally:
        np.random.set_state(before)
    if run is None:
        return None
    return {name: _plain(entry["value"]) for name, entry in run.config.items()}


def is_behind(settings: Mapping[str, object], trials: Sequence[Trial], running: Trial) -> bool:
    """True if `running` should be stopped early, compared with the others."""
    if "early_terminate" not in settings:
        return False
    runs = [_run_of(settings, trial) for trial in (*trials, running)]
    return runs[-1].name in {run.name for run in _sweeps.stop_runs(_filled(settings), runs)}


def command(sweep: Mapping[str, Any], settings: Mapping[str, Any], interpreter: str) -> list[str]:
    """The words with which wandb's agent would start these settings, with this interpreter."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    macros = create_sweep_command_args({"args": {k: {"value": v} for k, v in settings.items()}})
    macros |= {"env": [], "interpreter": [interpreter], "program": [sweep["program"]]}
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"]) if "command" in sweep else None):
        words += macros.get(word[2:-1], [word]) if word.startswith("${") else [word]
    return words


def _filled(settings: Mapping[str, object]) -> Any:
    return _sweeps.SweepConfig(dict(settings))


def _run_of(settings: Mapping[str, Any], trial: Trial) -> Any:
    metric = settings.get("metric", {}).get("name", "")
    states = {"finished": "finished", "stopped": "finished", "failed": "failed"}
    return _sweeps.SweepRun(
        name=str(trial.number),
        state=_sweeps.RunState(states.get(trial.end or "", "running")),
        config={name: {"value": value} for name, value in trial.settings.items()},
        summaryMetrics={metric: trial.values[-1]} if trial.values else {},
        sampledHistory=[{metric: value} for value in trial.values],
        stopped=trial.end == "stopped",
    )


def _plain(value: object) -> Any:
    """NumPy's numbers as Python's, so that they are written with their exact values."""
    return value.item() if isinstance(value, np.generic) else value

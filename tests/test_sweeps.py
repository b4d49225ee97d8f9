"""Every sweeps/*.yaml is valid for wandb's engine, and names flags and a metric of train.py."""

import functools
import importlib
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optax
import pytest
import yaml

from command_line.parser import parse_config
from common.settings import flatten, to_tree
from config import Config
from training.config import TrackerConfig, TrainingConfig
from training.hooks import evaluate_loss
from training.reports.metrics import Counts
from training.reports.trackers import Tracker
from training.update.state import TrainState
from trials.engine import command

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))

HELD_OUT = ("tone", "tone2", "gender", "random")  # the splits of the built-in data
of_each_sweep = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


# wandb and its engine take seconds to import, so workers that only collect these tests do not.
@functools.cache
def engine() -> Any:
    """PyPI's package sweeps; with `import`, mypy would find the folder sweeps/ in its place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was written for an older pydantic
        return importlib.import_module("sweeps")


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def flags_of(sweep: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """The flags with which wandb's agent would start these parameters of the engine."""
    settings = {name: entry["value"] for name, entry in parameters.items()}
    words = command(sweep, settings, "python")
    assert words[:2] == ["python", "train.py"]
    return words[2:]


def setting(config: Config, name: str) -> Any:
    value: Any = to_tree(config)
    for part in name.split("."):
        value = value[part]
    return value


def test_there_are_sweeps_and_each_opens_with_question_command_cost_and_answer() -> None:
    assert {path.stem for path in FILES} >= {"baseline", "learning_rate", "optimizers", "width"}
    for path in FILES:
        opening = path.read_text().partition("program:")[0]
        assert f"python sweep.py sweeps/{path.name}" in opening, path
        if "experiments/workloads" in path.read_text():
            assert "?" in opening, path
            assert "# Answer: " in opening, path
            assert re.search(r"^# \d+ runs of .*second", opening, re.MULTILINE), path


@of_each_sweep
def test_wandb_takes_it_and_train_knows_every_flag(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read(path)
    assert engine().schema_violations_from_proposed_config(sweep) == []
    suggested = engine().next_run(sweep, []).config
    assert suggested.keys() == sweep["parameters"].keys()
    config = parse_config(Config, flags_of(sweep, suggested))
    for name, value in flatten({name: entry["value"] for name, entry in suggested.items()}).items():
        assert setting(config, name) == value, name
    assert config.output_dir is None, "every run of a sweep needs a new folder"
    assert config.tracker.wandb == "online"


def test_a_parameter_that_is_no_flag_would_be_found() -> None:
    sweep = read(FILES[0])
    with pytest.raises(ValueError, match=r"did you mean --optim\.learning_rate\?"):
        parse_config(Config, flags_of(sweep, {"optim.learning_rat": {"value": 0.1}}))


@of_each_sweep
def test_the_mirror_gets_the_metric(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric has a name of the built-in data's splits, and passes a run's hook and tracker."""
    logged: dict[str, float] = {}
    mirror = SimpleNamespace(log=lambda row, step: logged.update(row), finish=lambda *_: None)
    monkeypatch.setattr("training.reports.trackers.Mirror", lambda *_: mirror)
    one_batch = {name: lambda: [{"x": np.ones(2)}] for name in HELD_OUT}
    evaluate = evaluate_loss(lambda params, batch: (batch["x"].sum(), 2.0), one_batch)
    state = TrainState.create(lambda key: {}, optax.identity(), seed=0)
    row = evaluate(1, state) | {"time/step_ms": 1.0}
    config = TrackerConfig(wandb="online")
    with Tracker(config, TrainingConfig(), tmp_path, 0, {}, Counts(lambda step: step)) as tracker:
        tracker.record(1, row)
    assert logged[read(path)["metric"]["name"]] == 1.0


@of_each_sweep
def test_an_early_stop_falls_within_the_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = read(path)
    if "early_terminate" not in sweep:
        return
    monkeypatch.chdir(ROOT)
    training = parse_config(Config, flags_of(sweep, engine().next_run(sweep, []).config)).training
    evaluations = training.steps // training.eval_every
    name = sweep["metric"]["name"]
    runs = [
        engine().SweepRun(
            name=str(loss),
            state=engine().RunState.running,
            sampledHistory=[{name: loss}] * (evaluations // 2),
        )
        for loss in (1.0, 2.0, 3.0, 4.0)
    ]
    assert {run.name for run in engine().stop_runs(sweep, runs)} == {"4.0"}


def test_none_booleans_and_lists_survive_the_agent() -> None:
    parameters = {
        "output_dir": None,
        "model.use_bias": True,
        "model.use_glu": False,
        "model.norm": "layernorm",
        "optim.epsilon": 1e-9,
        "grids.prompts": ["a cat, asleep", "it’s three o'clock", "None"],
    }
    sweep = {
        "program": "train.py",
        "command": ["${env}", "${interpreter}", "${program}", "${args}"],
    }
    words = flags_of(sweep, {name: {"value": value} for name, value in parameters.items()})
    assert "--output_dir=None" in words
    assert "--model.use_glu=False" in words
    config = parse_config(Config, words)
    for name, value in parameters.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert setting(config, name) == expected, name

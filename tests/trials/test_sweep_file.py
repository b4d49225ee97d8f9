"""Sweep files: valid ones are read, invalid ones are refused with line and key."""

from pathlib import Path

import pytest

from tests.source_tree import ROOT
from trials.sweep_file import read_sweep

RIGHT = """\
program: train.py
method: bayes
metric:
  name: eval/tone/loss
  goal: minimize
parameters:
  optim.learning_rate:
    distribution: log_uniform_values
    min: 0.001
    max: 0.1
  seed:
    value: 3
early_terminate:
  type: hyperband
  min_iter: 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_files_of_the_repository_are_right(path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.metric == "eval/tone/loss"
    assert sweep.searched


def test_a_sweep_file_gives_metric_cap_and_searched_settings(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, RIGHT + "run_cap: 7\n"))
    assert (sweep.metric, sweep.sign, sweep.run_cap) == ("eval/tone/loss", 1, 7)
    assert sweep.searched == ["optim.learning_rate"]
    assert "run_cap" not in sweep.settings
    assert sweep.at("parameters.seed") == f"{tmp_path}/sweep.yaml, line 11"
    larger = read_sweep(write(tmp_path, RIGHT.replace("minimize", "maximize")))
    assert larger.sign == -1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: bayes", "methd: bayes", "line 2: unknown key 'methd'; did you mean method?"),
        (
            "method: bayes",
            "method: best",
            "line 2: method must be grid, random or bayes, not",
        ),
        ("program: train.py", "project: pastel", "program must name the script"),
        ("metric:\n  name: eval/tone/loss\n  goal: minimize\n", "", "line 2: method bayes needs a"),
        ("goal: minimize", "goal: least", "line 5: goal must be minimize or maximize, not 'least'"),
        ("  name: eval/tone/loss\n", "", "line 3: metric must have a name"),
        ("max: 0.1", "max: 0.0001", "line 7: optim.learning_rate has min 0.001 that is not below"),
        (
            "max: 0.1",
            f"max: 1{'0' * 22}",
            "line 7: optim.learning_rate has max 10,000,000,000,000,",
        ),
        (
            "distribution: log_uniform_values\n    min: 0.001\n    max: 0.1",
            "distribution: log_uniform\n    min: 0.001\n    max: 1000",
            r"line 7: .* log_uniform with max 1,000, an exponent: e\^1000 is no finite number",
        ),
        (
            "distribution: log_uniform_values\n    min: 0.001\n    max: 0.1",
            "distribution: log_normal\n    mu: 900\n    sigma: 1",
            "line 7: .* log_normal with mu 900, an exponent",
        ),
        (
            "distribution: log_uniform_values\n    min: 0.001\n    max: 0.1",
            "distribution: beta\n    a: 0\n    b: 1",
            "line 7: .* beta with a 0, which must be above 0",
        ),
        ("    max: 0.1\n", "", "line 7: optim.learning_rate has min: without max:"),
        ("distribution: log_", "distributon: log_", "line 7: unknown key 'distributon'; did you"),
        (
            "method: bayes",
            "method: grid",
            "line 7: optim.learning_rate is a range, and a grid",
        ),
        ("log_uniform_values", "log_uniform", "line 7: .* exponents: these mean 1.001 to 1.105"),
        ("value: 3", "values: []", "line 11: seed has values: that are not a list"),
        (
            "value: 3",
            "value: 3\n  seed:\n    value: 4",
            "'seed' appears twice, in lines 11 and 13",
        ),
        ("log_uniform_values", "log_unform_values", "line 7: optim.learning_rate"),
        ("type: hyperband", "type: hyperbend", "hyperbend"),
        ("parameters:\n", "parameters: {}\nother:\n", "line 12: unknown key 'other'|line 7"),
        ("    value: 3", "    3", "line 11: seed must have value:, values: or min: and max:"),
        (
            "min_iter: 3\n",
            "min_iter: 3\nrun_cap: many\n",
            "line 16: run_cap must be a whole number",
        ),
    ],
)
def test_an_error_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RIGHT
    with pytest.raises(ValueError, match=message):
        read_sweep(write(tmp_path, RIGHT.replace(old, new)))


def test_an_early_end_needs_a_metric(tmp_path: Path) -> None:
    text = RIGHT.replace("method: bayes", "method: random")
    metric = "metric:\n  name: eval/tone/loss\n  goal: minimize\n"
    with pytest.raises(ValueError, match="early_terminate needs a metric"):
        read_sweep(write(tmp_path, text.replace(metric, "")))

"""Compares the losses of a run with the losses of a reference.

python -m experiments.compare runs/quickstart
python -m experiments.compare runs/valley/003 --reference results/references/starter.json
python -m experiments.compare runs/a runs/b runs/c --write results/references/starter.json

A reference is a small committed file. It has the mean and the standard deviation over seeds of each
loss at some updates, and the settings of the runs.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command_line.parser import run
from common import clone
from common.files import write_bytes
from common.json_files import Json
from experiments.logbook import is_run, settings_of
from training.reports import metrics

REFERENCES = clone.ROOT / "results" / "references"
POINTS = 24
"""Number of updates at which a reference has the training loss."""
WINDOW = 0.05
"""The training loss is averaged over this share of the updates so far, the last ones."""
FAR = 3.0
"""A larger difference, in standard deviations, is reported."""
NOT_COMPARED = ("seed", "data.", "grids.", "sampling.", "checkpoint.", "tracker.", "parallel.")
"""A reference does not store settings whose names have these prefixes."""
MOST = 5
"""The largest number of differing settings that are named."""
CAUSES = (
    (
        lambda at, now, metric: at <= 0.2 and now > 0,
        "a learning rate that is too low, or a long warm-up",
    ),
    (
        lambda at, now, metric: now > 0,
        "a learning rate that is too high or too low (sweeps/valley.yaml), "
        "records with other captions or pictures, or fewer examples an update",
    ),
    (
        lambda at, now, metric: metric.startswith("eval/"),
        "better settings, or held-out pictures that training has seen",
    ),
    (
        lambda at, now, metric: True,
        "fewer examples (the run memorises them: look at eval/), or "
        "less token_noise and caption_dropout",
    ),
)
"""Pairs of a test and the usual cause of a difference; the first test that is true counts. A test
takes the share of the reference's length, the difference in deviations, and the metric."""


@dataclass(frozen=True)
class CompareConfig:
    """Settings: the run and its reference."""

    runs: tuple[str, ...] = field(
        default=(),
        metadata={"nargs": "+", "positional": True, "help": "A run, or with --write several."},
    )
    """Folder of the run."""
    reference: str = ""
    """File of the reference. Default: results/references/NAME.json, with the run's name."""
    write: str = ""
    """File of a new reference, made from these runs. They may differ only in their seeds."""


def main(config: CompareConfig) -> None:
    """Print the differences between the run and its reference, or write a reference."""
    runs = [Path(name) for name in config.runs]
    for folder in runs:
        if not is_run(folder):
            raise ValueError(f"{folder} is not a run's folder; name one, such as runs/quickstart")
    if config.write:
        reference = make_reference(runs)
        Path(config.write).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(Path(config.write), (json.dumps(reference) + "\n").encode())
        print(f"written: {config.write}, seeds: {reference['seeds']}")
        return
    if len(runs) != 1:
        raise ValueError(f"{len(runs)} runs: only one can be compared; --write takes several")
    path = clone.find(config.reference) if config.reference else find_reference(runs[0])
    reference = read_reference(path)
    lines = compare(reference, metrics.read(runs[0] / "metrics.jsonl"), path.stem)
    print("\n".join([*lines, *differences(reference, runs[0], path.stem)]))


def find_reference(run_folder: Path) -> Path:
    """The path of the reference with the run's name. Raises ValueError, with a list of all
    references, if it is missing."""
    from weights.yaml_files import read_yaml

    name = str(read_yaml(run_folder / "config.yaml").get("name", ""))
    path = REFERENCES / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in REFERENCES.glob("*.json"))) or "none yet"
        raise ValueError(
            f"no reference for {name!r}; name one with --reference; there are: {there}"
        )
    return path


def read_reference(path: Path) -> Json:
    """The content of a reference's file. Raises ValueError if it is not a reference."""
    try:
        reference = json.loads(path.read_text(encoding="utf-8"))
        assert reference["seeds"] >= 1
        assert isinstance(reference["settings"], dict)
        assert all(
            len(c["mean"]) == len(c["step"]) == len(c["sd"]) for c in reference["curves"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{path} is not a reference: {error!r:.100}") from None
    return reference


def make_reference(runs: Sequence[Path]) -> Json:
    """A reference: the means and standard deviations over `runs`, and their settings. Raises
    ValueError if the runs differ in their length or in a setting other than the seed."""
    settings = [settings_of(run_folder) for run_folder in runs]
    _check_alike(runs, settings)
    rows = [metrics.read(run_folder / "metrics.jsonl") for run_folder in runs]
    lengths = {int(of_run[-1]["step"]) if of_run else 0 for of_run in rows}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(
            f"the runs ended after {sorted(lengths)} updates; they must have the same length"
        )
    last = lengths.pop()
    kept = {max(round(last * (i + 1) / POINTS), 1) for i in range(POINTS)}
    evaluated = {n for of_run in rows for row in of_run for n in row if n.startswith("eval/")}
    curves = {}
    for name in sorted({"train/loss"} | evaluated):
        series = [curve(of_run, name) for of_run in rows]
        curves[name] = _mean_curve(series, kept if name == "train/loss" else None)
    return {"seeds": len(runs), "curves": curves, "settings": _kept(settings[0])}


def _check_alike(runs: Sequence[Path], settings: Sequence[Mapping[str, object]]) -> None:
    """Raise ValueError if a run differs from the first one in a setting other than the seed."""
    for run_folder, of_run in zip(runs, settings, strict=True):
        names = sorted((of_run.keys() | settings[0].keys()) - {"seed"})
        odd = [name for name in names if of_run.get(name) != settings[0].get(name)]
        if odd:
            raise ValueError(f"{run_folder} differs from {runs[0]} in {', '.join(odd[:5])}")


def _mean_curve(series: Sequence[Mapping[int, float]], kept: set[int] | None) -> Json:
    """Mean and standard deviation at the steps that all series have. An update whose loss was NaN
    has no value. `kept` are the steps to keep; None = all."""
    steps = sorted(set.intersection(*map(set, series)))
    steps = [step for step in steps if kept is None or step in kept]
    values = np.array([[of_run[step] for step in steps] for of_run in series])
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(steps))
    return {
        "step": steps,
        "mean": [round(float(v), 5) for v in values.mean(0)],
        "sd": [round(float(v), 5) for v in spread],
    }


def _kept(settings: Mapping[str, object]) -> Json:
    return {name: v for name, v in settings.items() if not name.startswith(NOT_COMPARED)}


def differences(reference: Json, run_folder: Path, name: str) -> list[str]:
    """A line with the settings that differ between the run and the reference, if there are any."""
    settings, there = _kept(settings_of(run_folder)), reference["settings"]
    odd = [n for n in sorted(settings.keys() & there.keys()) if settings[n] != there[n]]
    if not odd:
        return []
    pairs = ", ".join(f"{n} {settings[n]} ({name}: {there[n]})" for n in odd[:MOST])
    more = f" and {len(odd) - MOST} more" if len(odd) > MOST else ""
    return [f"settings that differ: {pairs}{more}"]


def curve(rows: Sequence[Json], name: str) -> dict[int, float]:
    """Step → value of a metric. The training loss is averaged over a WINDOW of updates that ends at
    the step."""
    value_at = {
        int(row["step"]): float(row[name]) for row in rows if isinstance(row.get(name), float)
    }
    if name != "train/loss":
        return value_at
    steps, values = list(value_at), np.array(list(value_at.values()))
    return {
        step: float(values[max(0, i + 1 - max(int(WINDOW * step), 1)) : i + 1].mean())
        for i, step in enumerate(steps)
    }


def compare(reference: Json, rows: Sequence[Json], name: str) -> list[str]:
    """Lines with both values of each metric at the last 4 updates that the run has reached. Then
    lines with the usual cause of each large difference. Raises ValueError if the run has reached
    none."""
    lines, causes = [], []
    for metric, expected in reference["curves"].items():
        yours = curve(rows, metric)
        reached = [i for i, step in enumerate(expected["step"]) if step in yours]
        for i in reached[-4:]:
            step, mean, spread = expected["step"][i], expected["mean"][i], expected["sd"][i]
            value = yours[step]
            lines.append(
                f"{metric}: at update {step} {name} stands at {mean:.3f} ± {spread:.3f}; "
                f"yours at {value:.3f}"
            )
        if reached:
            i = reached[-1]
            away = (yours[expected["step"][i]] - expected["mean"][i]) / max(
                expected["sd"][i], 0.01 * abs(expected["mean"][i]), 1e-9
            )
            if not math.isfinite(away) or abs(away) > FAR:
                at = expected["step"][i] / expected["step"][-1]
                cause = next(text for fits, text in CAUSES if fits(at, away, metric))
                side = "above" if away > 0 else "below"
                causes.append(f"{metric}: {abs(away):.0f} deviations {side}; usually {cause}")
    if not lines:
        raise ValueError("the run has not reached the first update of the reference")
    seeds = f"{reference['seeds']} seeds" if reference["seeds"] > 1 else "a single seed"
    return [*lines, *(causes or [f"within {FAR:g} deviations of {seeds}"])]


if __name__ == "__main__":
    run(main, CompareConfig, prog="python -m experiments.compare", about=__doc__ or "")

"""Writes one HTML page about several runs: curves, settings, logbooks, pictures. It needs no
network.

python -m experiments.report runs/sweeps/valley --out report.html
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from command_line.parser import run
from common.files import write_bytes
from common.svg import Points, colour, parallel, plot
from experiments.influence import is_number, shares
from experiments.logbook import find_runs, last_losses, settings_of, shown_settings
from training.reports import logbook, metrics

SMOOTHING = 0.05
"""The training loss is averaged over this share of a run."""
RATE = "optim.learning_rate"
QUIET = ("seed",)
GRIDS = 3
"""Number of a run's pictures that are shown: first, middle, last."""
LARGEST = 2_000_000
"""Largest size of a picture in the page, in bytes."""
STYLE = "body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}\
td,th{border:1px solid #ccc;padding:2px 6px;text-align:left}img{max-width:30em;margin:4px}"


@dataclass(frozen=True)
class ReportConfig:
    """The runs, and the file of the page."""

    runs: tuple[str, ...] = field(
        default=("runs",),
        metadata={"nargs": "+", "positional": True, "help": "Runs, or folders with runs in them."},
    )
    """Folders of runs, or folders with runs in them."""
    out: str = "report.html"
    """File of the page."""
    metric: str = ""
    """The metric that ranks the runs; the lowest is best. Default: the first evaluated loss."""


@dataclass(frozen=True)
class RunData:
    """The data of one run that the page shows."""

    folder: Path
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    entries: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def value(self, metric: str) -> float:
        """The metric's last value; NaN if it was never logged."""
        values = [row[metric] for row in self.rows if isinstance(row.get(metric), float)]
        return float(values[-1]) if values else float("nan")


def main(config: ReportConfig) -> None:
    """Write the page and print its path."""
    runs = read_runs(config.runs)
    metric = config.metric or metric_of(runs)
    if config.metric and all(np.isnan(run.value(metric)) for run in runs):
        known = ", ".join(sorted({n for run in runs for n in last_losses(run.rows)})) or "none"
        raise ValueError(f"--metric {metric}: no run has it; there are {known}")
    write_bytes(Path(config.out), page(runs, metric).encode("utf-8", "replace"))
    print(f"written: {config.out}, {len(runs)} runs by {metric}")


def metric_of(runs: Sequence[RunData]) -> str:
    """The name of the first evaluated loss of these runs."""
    return min((name for run in runs for name in last_losses(run.rows)), default="train/loss")


def read_runs(names: Sequence[str | Path]) -> list[RunData]:
    """The runs in these folders, without repeats. Raises ValueError if there are none."""
    folders = [folder for name in names for folder in find_runs(Path(name))]
    runs = [
        RunData(
            folder,
            settings_of(folder),
            metrics.read(folder / "metrics.jsonl"),
            logbook.read(folder),
        )
        for folder in dict.fromkeys(folders)
    ]
    if not runs:
        raise ValueError(
            f"{', '.join(map(str, names))}: there are no runs; name folders that hold some"
        )
    return runs


def wandb_runs(project: str) -> list[RunData]:
    """The runs of a wandb project "ENTITY/PROJECT", read with the account of `wandb login`. They
    have no logbooks. Runs that share a name get their ids appended. Raises ValueError if there are
    none."""
    import wandb

    runs = list(wandb.Api().runs(project))
    often = Counter(run.name for run in runs)
    read = [
        RunData(
            Path(project) / (run.name if often[run.name] == 1 else f"{run.name} {run.id}"),
            shown_settings(run.config),
            [{name: _metric(name, row[name]) for name in row} for row in run.scan_history()],
            (),
        )
        for run in runs
    ]
    if not read:
        raise ValueError(f"the wandb project {project} has no runs")
    return read


def _metric(name: str, value: Any) -> Any:
    """A value as in metrics.jsonl: wandb returns 2.0 as 2, and NaN as text."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and name != "step"
    return float(value) if is_whole or value in ("NaN", "Infinity", "-Infinity") else value


def page(runs: Sequence[RunData], metric: str) -> str:
    """The HTML of the page."""
    searched = differing(runs)
    parts = [
        f"<h1>{len(runs)} runs</h1>",
        table(runs, metric, searched),
        f"<h2>Loss</h2><p>Training loss averaged over {SMOOTHING:.0%} of a run. Dashed: events of "
        "the logbooks; their text shows under the pointer.</p>",
        *(curves(runs, x, "train/loss") for x in ("examples", "hours")),
        f"<h2>{html.escape(metric)}</h2>",
        *(curves(runs, x, metric) for x in ("examples", "hours") if metric != "train/loss"),
        *(f"<h2>Learning rates</h2>{one}" for one in [valley(runs, metric)] if one),
        _influence(runs, metric, searched),
        "<h2>Pictures</h2>",
        *(_pictures(one) for one in runs),
        "<h2>Every setting</h2>",
        *(_settings(one) for one in runs),
    ]
    title = html.escape(f"Pastel: {len(runs)} runs")
    return (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        + "\n".join(part for part in parts if part)
        + "\n"
    )


def differing(runs: Sequence[RunData]) -> list[str]:
    """The names of the settings in which the runs differ, without the seed."""
    names = sorted({name for run in runs for name in run.settings} - set(QUIET))
    return [n for n in names if len({repr(run.settings.get(n)) for run in runs}) > 1]


def smoothed(rows: Sequence[Mapping[str, Any]], x: str, name: str) -> Points:
    """The finite points of a metric. The training loss is averaged over SMOOTHING of the run."""
    points = [
        (row.get(x, row.get("step", 0)), row[name]) for row in rows if is_number(row.get(name))
    ]
    points = [(place, value) for place, value in points if is_number(place) and np.isfinite(value)]
    if name != "train/loss" or not points:
        return points
    width = max(int(SMOOTHING * len(points)), 1)
    sums = np.concatenate([[0.0], np.cumsum([value for _, value in points])])
    ends = np.arange(1, len(points) + 1)
    starts = np.maximum(ends - width, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return [(place, float(mean)) for (place, _), mean in zip(points, means, strict=True)]


def influence(runs: Sequence[RunData], metric: str, names: Sequence[str]) -> dict[str, float]:
    """Setting → the share of the metric's variance that it explains, largest first."""
    settings = {name: [run.settings.get(name) for run in runs] for name in names}
    return shares([run.value(metric) for run in runs], settings)


def named(runs: Sequence[RunData]) -> dict[str, RunData]:
    """The runs by name, or by folder if several have the same name."""
    often = Counter(run.name for run in runs)
    return {run.name if often[run.name] == 1 else str(run.folder): run for run in runs}


def curves(runs: Sequence[RunData], x: str, name: str) -> str:
    """An SVG of a metric over examples or hours, with the logbooks' events."""
    by_name = named(runs)
    lines = {label: smoothed(run.rows, x, name) for label, run in by_name.items()}
    place = {
        label: {row.get("step"): row.get(x) for row in run.rows} for label, run in by_name.items()
    }
    marks = [
        (float(position), f"{label}: {entry.get('event')} {entry.get('text')}")
        for label, run in by_name.items()
        for entry in run.entries
        if (position := place[label].get(entry.get("step"))) is not None
    ]
    return plot(lines, x, name, marks=marks)


def valley(runs: Sequence[RunData], metric: str) -> str:
    """An SVG of the metric over the learning rate; empty if all rates are equal."""
    if RATE not in differing(runs):
        return ""
    points = {
        label: [(float(run.settings[RATE]), run.value(metric))]
        for label, run in named(runs).items()
        if is_number(run.settings.get(RATE))
    }
    return plot(points, RATE, metric, log_x=True, dots=True)


def _influence(runs: Sequence[RunData], metric: str, searched: Sequence[str]) -> str:
    shares = influence(runs, metric, searched)
    if not shares:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{share:.0%}</td></tr>"
        for name, share in shares.items()
    )
    return (
        "<h2>Which setting moved the result most</h2><p>Share of the result's variance between "
        "runs of different values. Settings that change together cannot be told apart.</p>"
        f"<table>{rows}</table>" + coordinates(runs, metric, list(shares)[:7])
    )


def coordinates(runs: Sequence[RunData], metric: str, names: Sequence[str]) -> str:
    """An SVG with parallel axes: these settings, then the metric. Each run that has the metric is a
    line."""
    good = [run for run in runs if np.isfinite(run.value(metric))]
    lines = [[*(_place(run, n, good) for n in names), run.value(metric)] for run in good]
    return parallel([*names, metric], lines, [run.name for run in good])


def _place(data: RunData, name: str, runs: Sequence[RunData]) -> float:
    """The position of a run's setting on its axis: a number itself, a word's place among all
    words."""
    values: list[Any] = [run.settings.get(name) for run in runs]
    value: Any = data.settings.get(name)
    if all(map(is_number, values)):
        return float(value)
    return float(sorted(map(repr, values)).index(repr(value)))


def table(runs: Sequence[RunData], metric: str, searched: Sequence[str]) -> str:
    """An HTML table of the runs with these settings, the best run first."""
    heads = ["", "run", metric, "updates", "seed", *searched]
    lines = []
    order = sorted(range(len(runs)), key=lambda i: (np.isnan(v := runs[i].value(metric)), v))
    for i in order:
        run = runs[i]
        step = run.rows[-1].get("step", 0) if run.rows else 0
        shown = [run.name, f"{run.value(metric):.4f}", step, run.settings.get("seed")]
        shown += [_short(run.settings.get(name)) for name in searched]
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in shown)
        lines.append(f'<tr><td style="background:{colour(i)}">&nbsp;</td>{cells}</tr>')
    titles = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def _short(value: object) -> Any:
    """A number with four digits; any other value unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else value


def _pictures(run: RunData) -> str:
    files = sorted((run.folder / "grids").glob("*.png"))
    files = [file for file in files if file.stat().st_size <= LARGEST]
    chosen = (
        [files[round(i * (len(files) - 1) / (GRIDS - 1))] for i in range(GRIDS)] if files else []
    )
    images = "".join(
        f'<img alt="{html.escape(file.stem)}" title="{html.escape(file.stem)}" '
        f'src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in dict.fromkeys(chosen)
    )
    return f"<p>{html.escape(run.name)}<br>{images}</p>" if images else ""


def _settings(run: RunData) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in run.settings.items()
    )
    summary = f"<summary>{html.escape(run.name)}</summary>"
    return f"<details>{summary}<table>{rows}</table></details>"


if __name__ == "__main__":
    run(main, ReportConfig, prog="python -m experiments.report", about=__doc__ or "")

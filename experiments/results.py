"""Writes tables and plots of finished sweeps, and the logs that they are made from, to be
committed.

python -m experiments.results runs/sweeps/valley
python -m experiments.results

The first command writes results/sweeps/valley.jsonl, one line per run with its command, and the
table and the plot beside it. Without a folder, all tables and plots are made again from their logs.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from command_line.parser import run
from common.files import write_bytes
from common.json_files import Json, parse_json
from common.settings import flatten
from common.svg import Points, plot
from experiments.influence import chances, shares
from training.reports import metrics
from trials import engine
from trials.ledger import Trial, folder_of, read_ledger
from trials.report import shown
from trials.sweep_file import read_sweep

SEED = "seed"
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's 97.5 % quantiles for 1 to 9 degrees of freedom."""
MOST = 4
"""A setting with at most this many values gets a line for each value's effect."""


@dataclass(frozen=True)
class ResultsConfig:
    """The sweeps, and the folder of their results."""

    sweeps: tuple[str, ...] = field(
        default=(), metadata={"nargs": "*", "positional": True, "help": "Folders of sweeps."}
    )
    """Folders that sweep.py wrote. Empty = all sweeps whose logs are in `out`."""
    out: str = "results/sweeps"
    """Folder of the logs, the tables and the plots."""


@dataclass(frozen=True)
class Row:
    """One run of a sweep: a line of the log."""

    settings: Json
    """Name → value of the searched settings, with the seed."""
    value: float
    """The sweep's metric at the end; infinite if the run failed."""
    spikes: int
    """Number of updates that were spikes by the guard's rule, or not finite."""
    is_stopped: bool = False
    """True if the engine stopped the run early. Its learning rate had not decayed, so its last
    value is not comparable."""


def main(config: ResultsConfig) -> None:
    """Write the logs of the sweeps, then tables and plots."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in config.sweeps:
        folder = Path(name)
        lines = "".join(json.dumps(line) + "\n" for line in collect(folder))
        if not lines:
            raise ValueError(f"{folder}: none of its runs has ended yet; wait for one")
        write_bytes(out / f"{folder.name}.jsonl", lines.encode())
    names = [Path(name).name for name in config.sweeps]
    for log in sorted(out.glob("*.jsonl")):
        if names and log.stem not in names:
            continue
        if not (rows := read_log(log)):
            raise ValueError(f"{log} holds no runs; remove it, or name its sweep's folder")
        text = make_table(rows)
        write_bytes(log.with_suffix(".md"), text.encode())
        if picture := draw(rows):
            write_bytes(log.with_suffix(".svg"), picture.encode())
        print(f"{log.stem}\n\n{text}")


def collect(folder: Path) -> Iterator[Json]:
    """A log line for each finished run of a sweep, by number."""
    sweep = read_sweep(folder / "sweep.yaml")
    for trial in sorted(read_ledger(folder), key=lambda one: one.number):
        if trial.end is None:
            continue
        words = engine.command(sweep.settings, trial.settings, "python")
        words = [word for word in words if not word.startswith("--tracker.wandb=")]
        yield {
            "settings": {name: trial.settings.get(name) for name in sweep.searched},
            "end": trial.end,
            sweep.metric or "value": trial.value,
            "spikes": _spikes(folder, trial),
            "command": shlex.join(words),
        }


def _spikes(folder: Path, trial: Trial) -> int:
    path = folder_of(folder, trial.number) / "metrics.jsonl"
    rows = metrics.read(path) if path.is_file() else []
    return sum(bool(row.get("guard/event")) for row in rows)


def read_log(path: Path) -> list[Row]:
    """The runs of a log. Raises ValueError, which names the line, if one is damaged."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        try:
            settings = flatten(row["settings"])
            [value] = [row[n] for n in row if n not in ("settings", "end", "spikes", "command")]
            is_good = row["end"] == "finished" and value is not None
            number_of_spikes, is_stopped = int(row["spikes"]), row["end"] == "stopped"
            result = float(value) if is_good else math.inf
            rows.append(Row(settings, result, number_of_spikes, is_stopped))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is damaged: {error!r:.100}") from None
    return rows


def groups_of(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    """The runs, grouped by the values of all settings except the seed, in the order of the
    runs."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(str(value) for name, value in row.settings.items() if name != SEED)
        groups.setdefault(key, []).append(row)
    return groups


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval by Student's t. The half is NaN for one value or for
    more than ten."""
    degrees = len(values) - 1
    if not 1 <= degrees <= len(T_95) or not np.isfinite(values).all():
        return float(np.mean(values)), math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), T_95[degrees - 1] * error


def make_table(rows: Sequence[Row]) -> str:
    """The results as Markdown: the mean of each combination of settings, and the effects of single
    settings. If every combination was run once, as in a random search: all runs, best first, and
    how much each setting moved the result. Runs that were stopped early are only counted."""
    ended = [row for row in rows if not row.is_stopped]
    stopped = len(rows) - len(ended)
    note = f"\n{stopped} further runs were stopped early, and are not in the tables.\n"
    return (_table(ended) if ended else "No run was finished.\n") + (note if stopped else "")


def _table(rows: Sequence[Row]) -> str:
    names = [name for name in rows[0].settings if name != SEED]
    groups = groups_of(rows)
    if len(groups) == len(rows):
        return _search_table(rows, names)
    means = {key: float(np.mean([row.value for row in group])) for key, group in groups.items()}
    lowest = min(means, key=means.__getitem__)
    lines = [
        f"{len(rows)} runs. In brackets: half of a 95 % interval (Student's t over the seeds). The "
        "difference is to the lowest mean, paired by seed.",
        "",
        f"| {' | '.join([*names, 'runs'])} | mean | deviation | difference | spikes |",
        "| --- " * (len(names) + 5) + "|",
    ]
    for key, group in groups.items():
        values = [row.value for row in group]
        spread = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 and _finite(values) else "–"
        away = "lowest" if key == lowest else _shown(_paired(group, groups[lowest]))
        cells = [*key, str(len(group)), _shown(values), spread, away]
        lines.append(f"| {' | '.join(cells)} | {sum(row.spikes for row in group)} |")
    return "\n".join([*lines, *_effects(rows, names)]) + "\n"


def _search_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The results of a search, each combination of settings run once."""
    values, settings = (
        [row.value for row in rows],
        {n: [r.settings[n] for r in rows] for n in names},
    )
    explained, chance = shares(values, settings), chances(values, settings)
    influence = [
        f"| {name} | {share:.0%} | {chance[name]:.0%} | "
        f"{'yes' if share > chance[name] else 'not settled'} |"
        for name, share in explained.items()
    ]
    runs = [
        f"| {' | '.join(shown(row.settings[name]) for name in names)} "
        f"| {_shown([row.value])} | {row.spikes} |"
        for row in sorted(rows, key=lambda one: one.value)
    ]
    return (
        "\n".join(
            [
                f"{len(rows)} runs, one of each combination, lowest first.",
                "",
                "How much did a setting move the result? Its share of the variance between the "
                "runs, and the share that 95 % of random orders of the results stay below. Numbers "
                "with more than four values are grouped by quartile.",
                "",
                "| setting | share of the variance | by chance below | more than chance |",
                "| --- " * 4 + "|",
                *influence,
                *_lowest(rows, names),
                "",
                f"| {' | '.join(names)} | result | spikes |",
                "| --- " * (len(names) + 2) + "|",
                *runs,
            ]
        )
        + "\n"
    )


def _lowest(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The lines of a table: the lowest result of each value of the settings that are words."""
    lines = []
    for name in names:
        results: dict[str, list[float]] = {}
        for row in rows:
            if isinstance(value := row.settings[name], str):
                results.setdefault(value, []).append(row.value)
        for value, losses in sorted(results.items(), key=lambda item: min(item[1])):
            lines.append(f"| {name} | {value} | {len(losses)} | {_shown([min(losses)])} |")
    head = "| setting | value | runs | lowest |"
    return ["", head, "| --- " * 4 + "|", *lines] if lines else []


def _effects(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The lines of a table: the effect of a single setting while all others and the seed are
    equal."""
    lines = []
    for name in names:
        values = list(dict.fromkeys(row.settings[name] for row in rows))
        if len(names) < 2 or not 2 <= len(values) <= MOST:
            continue
        base = [row for row in rows if row.settings[name] == values[0]]
        for value in values[1:]:
            with_value = [row for row in rows if row.settings[name] == value]
            away = _paired(with_value, base, (name,))
            if not away:
                continue
            mean, half = mean_interval(away)
            is_settled = abs(mean) > half
            verdict = "not settled" if not is_settled else "lower" if mean < 0 else "higher"
            cells = (name, str(value), str(values[0]), str(len(away)), _shown(away), verdict)
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    head = "| setting | value | instead of | seeds | difference | loss |"
    return ["", "Single settings, averaged over all others:", "", head, "| --- " * 6 + "|", *lines]


def _paired(
    rows: Sequence[Row], others: Sequence[Row], ignored: Sequence[str] | None = None
) -> list[float]:
    """The mean of row − other over paired runs, for each seed that both have. Runs are paired if
    all settings except `ignored` are equal; with None only the seed must be equal."""
    name_of = lambda row: tuple(  # noqa: E731
        str(value)
        for name, value in row.settings.items()
        if name == SEED or (ignored is not None and name not in ignored)
    )
    there = {name_of(row): row for row in others}
    by_seed: dict[Any, list[float]] = {}
    for row in rows:
        if name_of(row) in there:
            away = row.value - there[name_of(row)].value
            by_seed.setdefault(row.settings.get(SEED), []).append(away)
    return [float(np.mean(values)) for values in by_seed.values()]


def _finite(values: Sequence[float]) -> bool:
    return bool(np.isfinite(values).all())


def _shown(values: Sequence[float]) -> str:
    """The mean and half of its interval, as text."""
    if not len(values) or not _finite(values):
        return "failed" if len(values) else "–"
    mean, half = mean_interval(values)
    return f"{mean:.3f}" + ("" if math.isnan(half) else f" [± {half:.3f}]")


def draw(rows: Sequence[Row]) -> str:
    """An SVG of the value against the numeric setting with the most values. It has a line for each
    combination of the other settings, or for each seed. Empty if no setting is a number. Runs that
    were stopped early are left out."""
    rows = [row for row in rows if not row.is_stopped]
    if not rows:
        return ""
    spans = {
        name: {row.settings[name] for row in rows}
        for name in rows[0].settings
        if name != SEED and all(isinstance(row.settings[name], int | float) for row in rows)
    }
    if not spans:
        return ""
    across = max(spans, key=lambda name: len(spans[name]))
    others = [name for name in rows[0].settings if name not in (across, SEED)] or [SEED]
    lines: dict[str, Points] = {}
    for row in rows:
        label = ", ".join(f"{name} {row.settings[name]}" for name in others if name in row.settings)
        if label not in lines:
            same = [
                r for r in rows if all(r.settings.get(n) == row.settings.get(n) for n in others)
            ]
            means = {
                x: float(np.mean([r.value for r in same if r.settings[across] == x]))
                for x in sorted({r.settings[across] for r in same})
            }
            lines[label] = list(means.items())
    return plot(lines, across, "loss", log_x=min(spans[across]) > 0)


if __name__ == "__main__":
    run(main, ResultsConfig, prog="python -m experiments.results", about=__doc__ or "")

"""The results of a sweep: a table, results.csv, and two plots."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import new_file
from trials.ledger import Trial, best
from trials.sweep_file import Sweep

TABLE = "results.csv"
RATE = "optim.learning_rate"
_SHADES = "viridis_r"


def line_of(sweep: Sweep, trial: Trial) -> str:
    """One line of text about a trial."""
    value = "no value" if trial.value is None else f"{trial.value:.5g}"
    named = "  ".join(f"{name} {shown(trial.settings[name])}" for name in sweep.searched)
    why = f"  ({trial.reason})" if trial.reason else ""
    end = trial.end or "interrupted"
    return f"trial {trial.number:3d}  {end:11s}  {value:>9}  {named}  {trial.seconds:.0f} s{why}"


def shown(value: object) -> str:
    """The value of a setting as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """All trials, the best first, and the line that names the best."""
    ordered = sorted(trials, key=lambda trial: _rank(sweep, trial))
    lines = [line_of(sweep, trial) for trial in ordered]
    if (winner := best(trials, sweep.sign)) is not None:
        flags = " ".join(f"--{name}={winner.settings[name]}" for name in sweep.searched)
        lines.append(f"best: trial {winner.number}, {sweep.metric} {winner.value:.5g}: {flags}")
    return "\n".join(lines)


def write(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> list[Path]:
    """Write results.csv, parallel.png, and valley.png if the learning rate was searched. Returns
    their paths."""
    written = [folder / TABLE]
    with new_file(written[0]) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["trial", "end", sweep.metric or "", "seconds", *sweep.parameters])
        for trial in sorted(trials, key=lambda one: one.number):
            values = [trial.settings[name] for name in sweep.parameters]
            value = "" if trial.value is None else trial.value
            rows.writerow([trial.number, trial.end, value, round(trial.seconds, 1), *values])
    shown_trials = [trial for trial in trials if trial.value is not None]
    if sweep.metric and shown_trials and sweep.searched:
        written.append(folder / "parallel.png")
        _draw_parallel(written[-1], sweep, shown_trials)
        if RATE in sweep.searched:
            written.append(folder / "valley.png")
            _draw_valley(written[-1], sweep, shown_trials)
    return written


def _rank(sweep: Sweep, trial: Trial) -> tuple[bool, bool, float]:
    value = trial.value
    return trial.end != "finished", value is None, sweep.sign * (value or 0.0)


def _draw_parallel(path: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Parallel coordinates: an axis for each searched setting and one for the metric, a line a
    trial."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    axes = [_axis([trial.settings[name] for trial in trials]) for name in sweep.searched]
    axes.append(_axis([trial.value for trial in trials], is_metric=True))
    names = [*sweep.searched, str(sweep.metric)]
    figure = Figure(figsize=(2.2 * len(axes) + 1, 4), layout="constrained")
    plot = figure.add_subplot()
    goodness = [1 - position if sweep.sign == 1 else position for position in axes[-1][0]]
    for row, good in sorted(enumerate(goodness), key=lambda pair: pair[1]):
        heights = [positions[row] for positions, _ in axes]
        style = "-" if trials[row].end == "finished" else ":"
        plot.plot(range(len(axes)), heights, style, color=colormaps[_SHADES](1 - good), alpha=0.8)
    for position, (_, ticks) in enumerate(axes):
        plot.axvline(position, color="black", linewidth=0.8)
        for height, text in ticks:
            plot.annotate(
                text, (position, height), xytext=(3, 2), textcoords="offset points", fontsize=7
            )
    plot.set_xticks(range(len(axes)), names, fontsize=8)
    plot.set_yticks([])
    plot.set_title(f"{sweep.path.stem}: {len(trials)} trials (dotted: stopped early)", fontsize=9)
    _save(figure, path)


def _axis(
    values: Sequence[Any], is_metric: bool = False
) -> tuple[list[float], list[tuple[float, str]]]:
    """The values' places between 0 and 1, and the labels of the axis. Positive numbers that span
    more than a factor of ten are on a logarithmic axis, words at equal distances."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        words = sorted({str(value) for value in values})
        places = {word: place / max(len(words) - 1, 1) for place, word in enumerate(words)}
        return [places[str(value)] for value in values], [(place, w) for w, place in places.items()]
    low, high = min(values), max(values)
    is_log = not is_metric and low > 0 and high > 10 * low
    scale = (lambda v: math.log(v)) if is_log else float
    span = scale(high) - scale(low) or 1.0
    place = [(scale(value) - scale(low)) / span for value in values]
    ends = [(0.0, shown(float(low))), (1.0, shown(float(high)))]
    return place, ends if high > low else ends[:1]


def _draw_valley(path: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """The metric against the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    plot = figure.add_subplot(xscale="log", xlabel=RATE, ylabel=sweep.metric)
    for end, marker in (("finished", "o"), ("stopped", "x")):
        some = [trial for trial in trials if trial.end == end]
        rates = [trial.settings[RATE] for trial in some]
        plot.plot(rates, [trial.value or 0.0 for trial in some], marker, label=end)
    plot.legend()
    plot.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with new_file(path) as part:
        figure.savefig(part, dpi=120, format="png")

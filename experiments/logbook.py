"""Writes one page from the logbooks of all runs, or adds an outcome to one logbook.

python -m experiments.logbook
python -m experiments.logbook runs/quickstart --outcome "weight decay 0.1 is no better than 0.05"

The first command writes runs/LOGBOOK.md. Each run has a row with its question (--note of train.py),
the settings that differ from the baseline's, the last held-out losses, and its outcome.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_line.parser import run
from common.files import write_bytes
from common.settings import flatten
from training.reports import logbook, metrics
from weights.yaml_files import read_yaml

PAGE = "LOGBOOK.md"
HIDDEN = ("output_dir", "allow_changes", "name", "note")
SHOWN = 8


@dataclass(frozen=True)
class LogbookConfig:
    """The runs, or one run and its outcome."""

    runs: str = field(
        default="runs",
        metadata={"nargs": "?", "positional": True, "help": "Folder of runs, or one run."},
    )
    """A folder with runs in it, or with --outcome one run."""
    baseline: str = ""
    """The run with which the others are compared. Default: the oldest one."""
    outcome: str = ""
    """A line to add to the logbook of one run."""


def main(config: LogbookConfig) -> None:
    """Add an outcome, or write the page of all runs and print its path."""
    folder = Path(config.runs)
    if config.outcome:
        if not is_run(folder):
            raise ValueError(f"--outcome: {folder} is not a run's folder; name one")
        logbook.Logbook(folder).note("outcome", None, config.outcome)
        print(f"{folder}: outcome noted")
        return
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no runs; name a folder that does")
    baseline = Path(config.baseline) if config.baseline else runs[0]
    if not is_run(baseline):
        raise ValueError(f"--baseline: {baseline} is not a run's folder")
    write_bytes(folder / PAGE, page(runs, baseline).encode("utf-8", "replace"))
    print(f"written: {folder / PAGE}, {len(runs)} runs")


def is_run(folder: Path) -> bool:
    """True if the folder is a run's."""
    return (folder / "config.yaml").is_file()


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder, down to a depth of three, the oldest first."""
    if is_run(folder):
        return [folder]
    runs = {
        path.parent
        for depth in ("*", "*/*", "*/*/*")
        for path in folder.glob(f"{depth}/config.yaml")
    }
    return sorted(runs, key=lambda run: ((run / "config.yaml").stat().st_mtime, run.name))


def settings_of(run_folder: Path) -> dict[str, Any]:
    """A run's settings as dotted name → value, without those that do not affect it."""
    return shown_settings(read_yaml(run_folder / "config.yaml"))


def shown_settings(tree: Mapping[str, object]) -> dict[str, Any]:
    """A tree of settings as dotted name → value, without those that do not affect a run."""
    return {name: value for name, value in flatten(tree).items() if name not in HIDDEN}


def last_losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metric → last evaluated value; for a run without evaluations its last training loss."""
    losses = {
        name: value
        for row in rows
        for name, value in row.items()
        if name.startswith("eval/") and isinstance(value, float)
    }
    if not losses and rows and isinstance(rows[-1].get("train/loss"), float):
        return {"train/loss": rows[-1]["train/loss"]}
    return losses


def page(runs: Sequence[Path], baseline: Path) -> str:
    """The Markdown page of these runs."""
    base = settings_of(baseline)
    lines = [
        "# Logbook of all runs",
        "",
        f"Changes are relative to {baseline.name}. Write your own lines into a run's {PAGE}.",
        "",
        "| run | question | what changed | updates | result | outcome |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for folder in runs:
        settings, rows, entries = (
            settings_of(folder),
            metrics.read(folder / "metrics.jsonl"),
            logbook.read(folder),
        )
        changes = [
            f"{n} {settings.get(n)}" for n in sorted(settings) if settings.get(n) != base.get(n)
        ]
        more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        cells = [
            folder.name,
            _last(entries, "question"),
            ("baseline" if folder == baseline else ", ".join(changes[:SHOWN]) + more),
            str(rows[-1].get("step", 0) if rows else 0),
            ", ".join(f"{name} {value:.4g}" for name, value in last_losses(rows).items()),
            _last(entries, "outcome") or _last(entries, "abort") or _last(entries, "end"),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _last(entries: Sequence[Mapping[str, object]], event: str) -> str:
    texts = [str(entry.get("text", "")) for entry in entries if entry.get("event") == event]
    return " ".join(texts[-1].split()) if texts else ""


if __name__ == "__main__":
    run(main, LogbookConfig, prog="python -m experiments.logbook", about=__doc__ or "")

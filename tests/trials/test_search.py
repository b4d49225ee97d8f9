"""Sweeps without a wandb account, with a program whose best setting is known."""

import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.source_tree import ROOT
from trials import engine, report, search
from trials.ledger import LEDGER, Ledger, Trial, best, folder_of, read_ledger
from trials.search import Search, Stop
from trials.sweep_file import Sweep, read_sweep

PROGRAM = ROOT / "tests" / "trials" / "quadratic.py"
BAYES = f"""\
program: {PROGRAM}
method: bayes
metric: {{name: loss, goal: minimize}}
parameters:
  x: {{distribution: log_uniform_values, min: 0.0001, max: 1.0}}
early_terminate: {{type: hyperband, min_iter: 2, eta: 2}}
"""
GRID = f"""\
program: {PROGRAM}
method: grid
metric: {{name: loss, goal: minimize}}
parameters:
  x: {{values: [0.1, 0.01, 0.001]}}
  fault: {{values: [none]}}
"""


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LOOK_SECONDS", 0.01)


def sweep_of(folder: Path, text: str) -> Sweep:
    (folder / "file.yaml").write_text(text)
    return read_sweep(folder / "file.yaml")


def words(trial: Trial, run: Path) -> Sequence[str]:
    flags = [f"--{name}={value}" for name, value in trial.settings.items()]
    return [sys.executable, str(PROGRAM), *flags, f"--output_dir={run}"]


def run(
    folder: Path,
    sweep: Sweep,
    count: int | None,
    tell: Callable[[Trial], None] = lambda trial: None,
    **more: Any,
) -> list[Trial]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return Search(sweep, out, words, tell, count, **more).run(Stop())


def rows(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, dict(t.settings), t.end, t.values) for t in trials]


def test_bayes_finds_the_best_setting_within_its_budget(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BAYES)
    trials = run(tmp_path, sweep, 12)
    winner = best(trials, sweep.sign)
    assert winner is not None
    assert abs(math.log10(winner.settings["x"]) + 2) < 0.2
    assert winner.value == pytest.approx(0.125, abs=0.04)
    assert len(trials) == 12
    stopped = [trial for trial in trials if trial.end == "stopped"]
    assert stopped
    assert all(len(trial.values) < 8 for trial in stopped)
    assert rows(read_ledger(tmp_path / "out")) == rows(trials)


@pytest.mark.parametrize("killed_in", [[2], pytest.param([0, 2, 4], marks=pytest.mark.slow)])
def test_one_that_was_killed_ends_with_the_same_table(tmp_path: Path, killed_in: list[int]) -> None:
    """It is killed with kill -9 in the middle of a trial, which then resumes."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    sweep = sweep_of(tmp_path, BAYES)
    whole = run(tmp_path / "whole", sweep, 6)
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.trials.test_search import *\n"
        "search.LOOK_SECONDS = 0.01\n"
        f"sweep = read_sweep(Path({str(tmp_path / 'file.yaml')!r}))\n"
        "slow = lambda trial, run: [*words(trial, run), '--pause=0.1']\n"
        f"Search(sweep, Path({str(tmp_path / 'killed' / 'out')!r}), slow, print, 6).run(Stop())\n"
    )
    out = tmp_path / "killed" / "out"
    out.mkdir()
    for number in killed_in:
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        half = folder_of(out, number) / "metrics.jsonl"
        while process.poll() is None and not (half.is_file() and half.read_text().count("\n") > 1):
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
        process.wait()
    assert read_ledger(out)[-1].end is None
    resumed = run(tmp_path / "killed", sweep, 6)
    assert rows(resumed) == rows(whole)
    assert [read_ledger(out)[i].settings for i in range(6)] == [t.settings for t in whole]


def test_a_grid_is_walked_once_and_by_several_at_a_time(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID)
    trials = run(tmp_path, sweep, None, parallel=2)
    assert sorted(trial.settings["x"] for trial in trials) == [0.001, 0.01, 0.1]
    assert {trial.end for trial in trials} == {"finished"}
    assert rows(run(tmp_path, sweep, None)) == rows(trials)  # nothing is left to do


def test_a_sweep_of_one_process_ends_and_stops_as_others_do(tmp_path: Path) -> None:
    """This process runs the trials: one is stopped at first, and one fails."""
    sweep = sweep_of(tmp_path, GRID)
    (tmp_path / "out").mkdir()
    stop, ends = Stop(), [75, 0, 2, 0]

    def start(folder: Path, trial: Trial, words: Sequence[str], metric: str | None) -> Any:
        def train(log: Path) -> int:
            path = folder_of(folder, trial.number) / "metrics.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"step": 1, "loss": float(trial.number)}) + "\n")
            log.write_text("words\n")
            return ends.pop(0)

        result = search.processes.run_here(folder, trial, metric, train, stopped=75)
        stop.is_asked |= result.is_asked_to_stop
        return result

    first = Search(sweep, tmp_path / "out", words, print, None, start=start).run(stop)
    assert [trial.end for trial in first] == [None]
    stop.is_asked = False
    then = Search(sweep, tmp_path / "out", words, print, None, start=start).run(stop)
    assert [trial.end for trial in then] == ["finished", "failed", "finished"]
    assert then[1].reason == "exit code 2: words"
    assert [trial.values for trial in then] == [(0.0,), (1.0,), (2.0,)]


def test_a_stopped_sweep_saves_its_runs_and_continues(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID)
    out, stop = tmp_path / "out", Stop()
    out.mkdir()
    ended: list[Trial] = []

    def ask_once_it_runs(trial: Trial, folder: Path) -> Sequence[str]:
        stop.is_asked = trial.number == 1
        return [*words(trial, folder), "--pause=0.2"]

    trials = Search(sweep, out, ask_once_it_runs, ended.append, None).run(stop)
    assert [trial.end for trial in trials] == ["finished", None]
    assert [trial.end for trial in ended] == ["finished", None]
    assert [trial.end for trial in read_ledger(out)] == ["finished", None]
    again = run(tmp_path, sweep, None)
    assert [trial.end for trial in again] == ["finished"] * 3
    assert [len(trial.values) for trial in again] == [8, 8, 8]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fails", "all 3 trials failed, the last with exit code 2: this x is no good"),
        ("silent", "metric loss was never logged; there are other, step"),
    ],
)
def test_a_sweep_whose_trials_all_fail_ends_with_the_reason(
    tmp_path: Path, fault: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, sweep_of(tmp_path, GRID.replace("none", fault)), None)


def test_one_failure_does_not_end_a_sweep(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID.replace("[none]", "[none, nan, fails]"))
    trials = run(tmp_path, sweep, None)
    assert len(trials) == 9
    for trial in trials:
        wanted = "failed" if trial.settings["fault"] == "fails" else "finished"
        assert trial.end == wanted
        assert (trial.value is None) == (trial.settings["fault"] != "none")
    winner = best(trials, sweep.sign)
    assert winner is not None
    assert winner.settings == {"x": 0.01, "fault": "none"}


def test_a_suggestion_depends_on_seed_number_and_results_alone(tmp_path: Path) -> None:
    settings = sweep_of(tmp_path, BAYES).settings
    done = [Trial(0, {"x": 0.5}, "finished", (3.0,)), Trial(1, {"x": 0.02}, "finished", (0.2,))]
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    one = engine.suggest(settings, done, 2, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(2)
    assert engine.suggest(settings, done, 2, seed=0) == one
    assert engine.suggest(settings, done, 2, seed=1) != one
    assert engine.suggest(settings, done, 3, seed=0) != one


def test_a_trial_is_judged_by_its_values_alone(tmp_path: Path) -> None:
    """A trial is behind the better half at its second value, whenever it is judged."""
    settings = sweep_of(tmp_path, BAYES).settings
    others = [Trial(n, {"x": 1.0}, "finished", (v,) * 8) for n, v in enumerate((1.0, 2.0, 3.0))]
    judged = [
        engine.is_behind(settings, others, Trial(3, {"x": 1.0}, None, (4.0,) * count))
        for count in range(1, 4)
    ]
    assert judged == [False, False, True]  # the engine counts values from 0


def test_the_ledger_forgets_half_a_line_and_names_a_damaged_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin(Trial(0, {"x": 0.5}))
    ledger.end(Trial(0, {"x": 0.5}, "finished", (1.0, math.nan), 3.0))
    ledger.begin(Trial(1, {"x": 0.25}))
    path = tmp_path / LEDGER
    path.write_text(path.read_text() + '{"trial": 1, "en')
    first, second = read_ledger(tmp_path)
    assert (first.end, second.end, second.settings) == ("finished", None, {"x": 0.25})
    assert first.values[0] == 1.0
    assert math.isnan(first.values[1])
    Ledger(tmp_path).end(Trial(1, {"x": 0.25}, "failed", (), 1.0, "no"))
    assert read_ledger(tmp_path)[1].reason == "no"
    path.write_text("[]\n" + path.read_text())
    with pytest.raises(ValueError, match=r"trials.jsonl, line 1 is damaged"):
        read_ledger(tmp_path)
    path.write_text('{"trial": 1, "trial": 2}\n')
    with pytest.raises(
        ValueError, match=r"trials.jsonl, line 1 cannot be read: 'trial' appears twice"
    ):
        read_ledger(tmp_path)


def test_table_and_files_hold_every_trial(tmp_path: Path) -> None:
    text = BAYES.replace("  x:", "  kind: {values: [a, b]}\n  x:")
    text = text.replace("  x:", "  optim.learning_rate:")
    sweep = sweep_of(tmp_path, text)
    trials = [
        Trial(0, {"kind": "a", "optim.learning_rate": 0.1}, "finished", (2.0, 1.5), 3.0),
        Trial(1, {"kind": "b", "optim.learning_rate": 0.01}, "stopped", (0.5,), 1.0),
        Trial(2, {"kind": "b", "optim.learning_rate": 0.001}, "finished", (1.25,), 3.0),
        Trial(3, {"kind": "b", "optim.learning_rate": 0.5}, "failed", (), 3.0, "exit code 2: why"),
    ]
    lines = report.table(sweep, trials).splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["2", "0", "1", "3"]
    assert "exit code 2: why" in lines[3]
    assert lines[4] == "best: trial 2, loss 1.25: --kind=b --optim.learning_rate=0.001"
    written = report.write(tmp_path, sweep, trials)
    assert [path.name for path in written] == ["results.csv", "parallel.png", "valley.png"]
    with written[0].open() as file:
        found = list(csv.DictReader(file))
    assert [row["loss"] for row in found] == ["1.5", "0.5", "1.25", ""]
    assert [row["kind"] for row in found] == ["a", "b", "b", "b"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[1:])


def test_rows_done_again_after_a_resume_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def write(*steps: int) -> str:
        return "".join(json.dumps({"step": s, "loss": s + 0.5}) + "\n" for s in steps)

    path.write_text(write(1, 2, 3) + '{"step": 4, "lo')
    tail = search.processes.MetricTail(path, "loss")
    assert tail.read() == [1.5, 2.5, 3.5]
    path.write_text(write(1, 2))
    assert tail.read() == [1.5, 2.5]
    path.write_text(write(1, 2, 3, 4))
    assert tail.read() == [1.5, 2.5, 3.5, 4.5]


def test_rows_done_again_between_two_looks_are_read_anew(tmp_path: Path) -> None:
    """A rollback takes rows back, and by the next look the file is longer than before."""
    path = tmp_path / "metrics.jsonl"

    def write(*rows: tuple[int, float]) -> str:
        return "".join(json.dumps({"step": s, "loss": value}) + "\n" for s, value in rows)

    path.write_text(write((1, 1.5), (2, 2.5), (3, 99.5)))
    tail = search.processes.MetricTail(path, "loss")
    assert tail.read() == [1.5, 2.5, 99.5]
    path.write_text(write((1, 1.5), (2, 1.25), (3, 1.125), (4, 1.0)))
    assert tail.read() == [1.5, 1.25, 1.125, 1.0]

"""Tables of sweeps: their statistics, and the committed tables, made from their logs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.results import (
    ResultsConfig,
    Row,
    collect,
    draw,
    main,
    make_table,
    mean_interval,
    read_log,
)
from trials.ledger import Ledger, Trial

ROOT = Path(__file__).parent.parent.parent
LOGS = sorted((ROOT / "results" / "sweeps").glob("*.jsonl"))
SWEEP = """\
program: train.py
method: grid
metric: {name: eval/tone/loss, goal: minimize}
parameters:
  optim.learning_rate: {values: [0.1, 0.2]}
  seed: {values: [0, 1]}
  training.steps: {value: 3}
"""


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_a_committed_table_is_that_of_its_log(log: Path) -> None:
    rows = read_log(log)
    assert log.with_suffix(".md").read_text() == make_table(rows)
    plot = log.with_suffix(".svg")
    assert (plot.read_text() if plot.is_file() else "") == draw(rows)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_a_log_is_of_the_sweep_of_its_name(log: Path) -> None:
    """Every line has its command, which contains the line's settings."""
    assert (ROOT / "sweeps" / f"{log.stem}.yaml").is_file()
    for line in log.read_text().splitlines():
        row = json.loads(line)
        assert row["command"].startswith("python train.py --config=")
        if "seed" in row["settings"]:
            assert f"--seed={row['settings']['seed']}" in row["command"]


def test_a_run_that_was_stopped_early_is_counted_and_not_compared() -> None:
    """Its loss is the one in the middle of a training. It is neither a failure nor the lowest."""
    ended = [Row({"rate": float(rate)}, value, 0) for rate, value in ((1, 3.0), (2, 2.0), (4, 2.5))]
    stopped = Row({"rate": 8.0}, 1.0, 0, is_stopped=True)
    table = make_table([*ended, stopped])
    assert table.startswith(make_table(ended))
    assert table.endswith("1 further runs were stopped early, and are not in the tables.\n")
    assert draw([*ended, stopped]) == draw(ended)
    assert (make_table([stopped])[:19], draw([stopped])) == ("No run was finished", "")


def test_every_line_of_a_table_has_as_many_cells_where_only_seeds_differ() -> None:
    lines = make_table([Row({"seed": seed}, 1.0 + seed, 0) for seed in range(3)]).splitlines()[2:]
    assert {line.count("|") for line in lines} == {6}


def test_an_interval_is_student_s() -> None:
    """Student's t for five values: mean ± 2.776 · s/√5."""
    values = [1.0, 2.0, 4.0, 4.0, 9.0]
    mean, half = mean_interval(values)
    assert mean == 4.0
    assert half == pytest.approx(2.776 * np.std(values, ddof=1) / math.sqrt(5))
    assert math.isnan(mean_interval([1.0])[1])
    assert math.isnan(mean_interval([1.0, math.inf])[1])


def rows_of(values: dict[tuple[str, float, int], float]) -> list[Row]:
    return [
        Row({"norm": norm, "rate": rate, "seed": seed}, value, 1)
        for (norm, rate, seed), value in values.items()
    ]


def test_a_table_pairs_seeds_and_calls_what_is_not_settled() -> None:
    """b is lower by 0.5 ± 0.01 for every rate and seed; the rate changes nothing on average."""
    noise = {0: 0.0, 1: 5.0, 2: -3.0}  # depends on the seed, so pairing removes it
    values = {
        (norm, rate, seed): 3.0 + noise[seed] - 0.5 * (norm == "b") + 0.01 * seed * (norm == "b")
        for norm in "ab"
        for rate in (0.1, 0.2)
        for seed in range(3)
    }
    table = make_table(rows_of(values))
    assert "| a | 0.1 | 3 | 3.667 [± 10.040] | 4.041 | 0.490 [± 0.025] | 3 |" in table
    assert "| norm | b | a | 3 | -0.490 [± 0.025] | lower |" in table
    assert "| rate | 0.2 | 0.1 | 3 | 0.000 [± 0.000] | not settled |" in table
    assert table.count("| lowest |") == 1
    values[("a", 0.1, 1)] = math.inf
    table = make_table(rows_of(values))
    assert "| a | 0.1 | 3 | failed | – | failed | 3 |" in table


def test_a_sweep_becomes_a_log_a_table_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "rates", tmp_path / "results"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    ledger = Ledger(folder)
    ends = [2.0, 3.0, 2.5, None]
    for number, value in enumerate(ends):
        settings = {
            "optim.learning_rate": 0.1 * (1 + number // 2),
            "seed": number % 2,
            "training.steps": 3,
        }
        ledger.begin(Trial(number, settings))
        if value is not None:
            ledger.end(Trial(number, settings, "finished", (9.0, value), 1.0))
    (folder / "001").mkdir()
    rows = [{"step": n, "hours": 0.1, "guard/event": float(n == 2)} for n in (1, 2, 3)]
    (folder / "001" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines = list(collect(folder))
    assert [line["spikes"] for line in lines] == [0, 1, 0]
    assert lines[1]["eval/tone/loss"] == 3.0
    assert "--optim.learning_rate=0.1 --seed=1 --training.steps=3" in lines[1]["command"]
    main(ResultsConfig((str(folder),), str(out)))
    assert "| 0.1 | 2 | 2.500 [± 6.353] |" in (out / "rates.md").read_text()
    assert (out / "rates.svg").read_text().startswith("<svg")
    (out / "rates.md").unlink()
    main(ResultsConfig(out=str(out)))
    assert (out / "rates.md").read_text() in capsys.readouterr().out
    (out / "rates.jsonl").write_text('{"settings": 1}\n')
    with pytest.raises(ValueError, match=r"rates.jsonl, line 1 is damaged"):
        read_log(out / "rates.jsonl")


def test_a_sweep_of_which_no_run_has_ended_has_no_table(tmp_path: Path) -> None:
    folder, out = tmp_path / "rates", tmp_path / "out"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    Ledger(folder).begin(Trial(0, {"optim.learning_rate": 0.1, "seed": 0, "training.steps": 3}))
    with pytest.raises(ValueError, match="rates: none of its runs has ended yet"):
        main(ResultsConfig((str(folder),), str(out)))
    assert not list(out.iterdir())
    (out / "old.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"old\.jsonl holds no runs"):
        main(ResultsConfig(out=str(out)))


def test_a_search_s_table_says_which_setting_moved_the_result() -> None:
    """The rate decides everything, the name nothing; a failed run is shown, and counts nowhere."""
    generator = np.random.default_rng(3)
    rates = generator.permutation(np.geomspace(0.001, 1, 40))
    rows = [
        Row({"rate": float(rate), "name": "ab"[i % 2]}, math.log(rate) ** 2, 0)
        for i, rate in enumerate(rates)
    ]
    lines = make_table([*rows, Row({"rate": 2.0, "name": "a"}, math.inf, 0)]).splitlines()
    [rate] = [line for line in lines if line.startswith("| rate |") and "%" in line]
    [name] = [line for line in lines if line.startswith("| name |") and "%" in line]
    assert rate.endswith("| yes |")
    assert name.endswith("| not settled |")
    assert "| name | a | 21 | 0.000 |" in lines
    assert lines[-1] == "| 2 | a | failed | 0 |"
    best = next(i for i, line in enumerate(lines) if line.startswith("| rate | name | result"))
    assert lines[best + 2].startswith("| 1 | ")

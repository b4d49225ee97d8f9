"""The rules of a contest, and the committed tables, made from their logs."""

import dataclasses
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line.parser import parse_config
from config import Config
from experiments import time_to_target
from experiments.contest import (
    Result,
    Rules,
    best_trial,
    describe,
    draw,
    halton,
    holds,
    interval,
    profile_areas,
    score,
)
from experiments.contest_runs import measured, read_log
from experiments.time_to_target import (
    AREAS,
    LOG,
    TABLE,
    Job,
    TimeToTargetConfig,
    command_of,
    jobs,
    main,
    make_table,
    read_contest,
)
from training import exits
from training.saved.runs import sole_user
from vqgan.run_config import VQGANRunConfig

ROOT = Path(__file__).parent.parent.parent
CONTESTS = sorted((ROOT / "experiments" / "contests").glob("*.yaml"))
STARTER = ROOT / "experiments" / "contests" / "starter.yaml"
THREE = ("starter", "openmoji", "vqgan")
"""The contests of the committed areas."""
STARTS: dict[str, tuple[list[str], Any]] = {
    "train.py": (["python", "train.py"], Config),
    "vqgan.train": (["python", "-m", "vqgan.train"], VQGANRunConfig),
}
"""Program of a contest → the beginning of its commands, its configuration."""


def result(kind: str, length: int, seed: int, value: float, trial: int = 0) -> Result:
    return Result("adamw", kind, length, seed, trial, value, 10.0 * length, 5.0, 3.0)


def test_halton_s_numbers_are_the_published_ones() -> None:
    assert [halton(n, 0) for n in range(5)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8]
    np.testing.assert_allclose([halton(n, 1) for n in range(4)], [1 / 3, 2 / 3, 1 / 9, 4 / 9])


def test_trials_are_drawn_within_their_ranges() -> None:
    space: dict[str, Any] = {
        "rate": {"log": [1e-4, 1e-2]},
        "beta": {"log": [0.02, 0.5], "of": 1},
        "name": {"values": ["a", "b"]},
    }
    drawn = [draw(space, n) for n in range(50)]
    assert drawn[0]["rate"] == pytest.approx(1e-3)
    assert all(
        1e-4 < settings["rate"] < 1e-2 and 0.5 <= settings["beta"] <= 0.98 for settings in drawn
    )
    assert {settings["name"] for settings in drawn} == {"a", "b"}
    for wrong in ({"log": [0, 1]}, {"uniform": [2, 1]}, {"range": [0, 1]}):
        with pytest.raises(ValueError, match=r"rate: .* is neither log"):
            draw({"rate": wrong}, 0)


def test_an_entry_holds_by_the_published_rule() -> None:
    """(target − mean) · √n > margin: 0.0015 · 2 is not more than 0.004; 0.0025 · 2 is."""
    rules = Rules(3.28, 0.004, 3)
    assert not holds([3.2785] * 4, rules)
    assert holds([3.2775] * 4, rules)
    assert not holds([3.0, math.inf], rules)
    assert not holds([], rules)
    higher = Rules(3.28, 0.004, 3, is_higher_better=True)
    assert holds([3.2825] * 4, higher)
    assert not holds([3.2815] * 4, higher)
    assert not holds([math.inf] * 4, higher)


def test_an_interval_is_near_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(2.0, 0.1, 400)
    low, high = interval(values.tolist())
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=1e-3)
    assert math.isnan(interval([1.0])[0])


def test_the_score_is_the_shortest_length_that_holds_at_its_own_end() -> None:
    results = [
        *(result("tuning", 100, 0, v, t) for t, v in enumerate([3.9, 3.5, math.inf])),
        *(result("score", 100, s, 3.6, 1) for s in (1, 2)),
        *(result("score", 200, s, 3.4, 1) for s in (1, 2)),
    ]
    rules = Rules(3.5, 0.004, 3)
    found = score("adamw", results, rules)
    assert (found.steps, found.seconds) == (200, 2000)
    assert found.means[100][0] == pytest.approx(3.6)
    assert best_trial(results, 100, rules) == 1
    assert found.tuned == {100: (3, 1, 3.5)}
    far = Rules(3.0, 0.004, 3)
    assert math.isinf(score("adamw", results, far).steps)
    assert math.isnan(score("adamw", results, far, lengths=(100, 200, 300)).steps)
    assert score("adamw", results, rules, lengths=(100, 200, 300)).steps == 200
    with pytest.raises(ValueError, match=r"seeds \[1\] are used for tuning and for the score"):
        score("adamw", [*results, result("tuning", 100, 1, 3.4)], rules)


def test_where_higher_is_better_the_signs_turn() -> None:
    rules = Rules(20.0, 0.1, 3, is_higher_better=True)
    low, high = (
        [
            *(result("tuning", 100, 0, v, t) for t, v in enumerate([18.0, at, -math.inf])),
            *(result("score", 100, s, at, 1) for s in (1, 2)),
        ]
        for at in (19.0, 21.0)
    )
    assert best_trial(high, 100, rules) == 1
    assert math.isinf(score("adamw", low, rules).steps)
    assert score("adamw", high, rules).steps == 100
    scores = [replace(score("adamw", low, rules), entry="low"), score("adamw", high, rules)]
    text = describe(scores, rules)
    assert "(mean − target) · √n > 0.1" in text
    assert text.index("| adamw |") < text.index("| low |")


def test_areas_are_those_of_the_profiles() -> None:
    """Compares with brute force: the mean over τ of the share of workloads within τ of the best."""
    times = {"a": [1.0, 3.0, math.inf], "b": [2.0, 1.0, math.inf], "c": [math.inf, 2.5, math.inf]}
    taus = np.linspace(1, 4, 30_001)
    best = np.min(list(times.values()), axis=0)
    for name, area in profile_areas(times).items():
        ratios = [
            t / b if math.isfinite(t) else math.inf for t, b in zip(times[name], best, strict=True)
        ]
        brute = np.mean([np.less_equal.outer(ratios, taus).mean(0)])
        assert area == pytest.approx(brute, abs=1e-3), name


def test_the_remaining_runs_follow_from_the_log_and_end(tmp_path: Path) -> None:
    contest = read_contest(STARTER)
    done: list[Result] = []
    names = ("adamw", "sgd")
    while (job := next(jobs(contest, names, done), None)) is not None:
        entry, kind, length, trial, seed = job
        value = 5.0 - 0.1 * trial if entry == "adamw" else 4.5 + trial
        done.append(Result(entry, kind, length, seed, trial, value, 1.0, 1.0, 1.0))
    lengths, budget = len(contest.lengths), contest.budget
    assert len(done) == 2 * lengths * (budget * len(contest.tuning_seeds) + len(contest.seeds))
    scored = {(result.entry, result.trial) for result in done if result.kind == "score"}
    assert scored == {("adamw", budget - 1), ("sgd", 0)}
    assert "| adamw |" in make_table(contest, done)


@pytest.mark.parametrize("path", CONTESTS, ids=lambda path: path.stem)
def test_every_entry_s_command_is_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    contest = read_contest(path)
    for entry in contest.entries:
        for trial in range(contest.budget):
            words = command_of(contest, Job(entry, "score", 150, trial, 7), Path("runs/x"))
            start, own = STARTS[contest.program]
            assert words[: len(start)] == start
            config = parse_config(own, words[len(start) :])
            assert (config.training.steps, config.seed) == (150, 7)


def test_times_leave_compilation_and_evaluation_out(tmp_path: Path) -> None:
    times = [5000.0, 100.0, 100.0, 120.0]
    rows = [{"step": n + 1, "hours": 0.1, "time/step_ms": t} for n, t in enumerate(times)]
    rows[-1]["eval/tone/loss"] = 3.5
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    contest = read_contest(STARTER)
    assert measured(contest.metric, tmp_path, True, 9.0) == {
        "value": 3.5,
        "train_seconds": 0.42,
        "compile_seconds": 4.9,
        "other_seconds": 3.68,
    }
    assert measured(contest.metric, tmp_path, False, 9.0)["value"] is None


def test_the_command_makes_the_table_and_refuses_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {**result("score", 150, 101, 3.9).__dict__, "command": "python train.py"}
    contest, own = str(STARTER), tmp_path / STARTER.stem
    own.mkdir()
    (own / LOG).write_text(json.dumps(line) + "\n")
    main(TimeToTargetConfig((contest,), out=str(tmp_path), table=True))
    assert (own / TABLE).read_text() == capsys.readouterr().out.removesuffix("\n")
    with pytest.raises(ValueError, match="has no entry adagrad; there are sgd"):
        main(TimeToTargetConfig((contest,), entries=("adagrad",), table=True))
    text = STARTER.read_text()
    for old, new, message in (
        ("goal: minimize", "goal: lower", "goal 'lower' is none of minimize, maximize"),
        ("program: train.py", "program: x.py", "program 'x.py' is none of train.py, vqgan.train"),
    ):
        (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_contest(tmp_path / "wrong.yaml")
    of_vqgan = tmp_path / "of_vqgan.yaml"
    of_vqgan.write_text(text.replace("program: train.py", "program: vqgan.train"))
    with pytest.raises(ValueError, match="only runs of train.py can share a process"):
        main(TimeToTargetConfig((str(of_vqgan),), out=str(tmp_path), one_process=True))
    (own / LOG).write_text('{"entry": 1}\n')
    with pytest.raises(ValueError, match="line 1 is damaged"):
        read_log(own / LOG)


def test_several_contests_end_with_the_areas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """adamw is first in one of two contests and misses the target in the other; adam takes twice as
    long and wins."""
    logs: dict[str, dict[str, dict[int, float]]] = {
        "one": {"adamw": {100: 2.0}, "adam": {100: 9.0, 200: 2.0}},
        "two": {"adamw": {100: 9.0, 200: 9.0}, "adam": {100: 2.0}},
    }
    text = STARTER.read_text()
    assert (read_contest(STARTER).target, read_contest(STARTER).lengths) == (
        2.32,
        (100, 200),
    )
    for name, entries in logs.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        (tmp_path / name).mkdir()
        lines = [
            {**result("score", length, 101, value).__dict__, "entry": entry}
            for entry, values in entries.items()
            for length, value in values.items()
        ]
        (tmp_path / name / LOG).write_text("".join(json.dumps(one) + "\n" for one in lines))
    contests = tuple(str(tmp_path / f"{name}.yaml") for name in logs)
    main(TimeToTargetConfig(contests, out=str(tmp_path), table=True))
    areas = capsys.readouterr().out.split("Area under")[1]
    assert "| adam | 0.8333 | 0.8333 |" in areas
    assert "| adamw | 0.5 | 0.5 |" in areas
    assert "over 2 contests (one, two), up to 4 times" in (tmp_path / AREAS).read_text()


def test_seconds_that_were_not_measured_are_called_so() -> None:
    one = Result("adamw", "score", 100, 1, 0, 2.0, math.nan, math.nan, math.nan)
    contest = read_contest(STARTER)
    assert "| adamw | 100 | not measured |" in make_table(contest, [one])


@pytest.mark.parametrize("log", sorted(ROOT.glob(f"results/time_to_target/*/{LOG}")), ids=str)
def test_a_committed_table_is_that_of_its_log(log: Path) -> None:
    contest = read_contest(ROOT / "experiments" / "contests" / f"{log.parent.name}.yaml")
    assert (log.parent / TABLE).read_text() == make_table(contest, read_log(log))


def test_the_committed_areas_are_those_of_the_logs(tmp_path: Path) -> None:
    committed = ROOT / "results" / "time_to_target"
    shutil.copytree(committed, tmp_path / "out")
    (tmp_path / "out" / AREAS).unlink()
    contests = tuple(f"{ROOT}/experiments/contests/{name}.yaml" for name in THREE)
    main(TimeToTargetConfig(contests, out=str(tmp_path / "out"), table=True))
    assert (tmp_path / "out" / AREAS).read_text() == (committed / AREAS).read_text()


ROWS = {
    "diverged": {"step": 1, "hours": 0.1, "guard/event": 2.0},
    "other": {"step": 1, "hours": 0.1, "guard/event": 0.0, "eval/other/loss": 1.0},
    "done": {"step": 1, "hours": 0.1, "guard/event": 0.0, "eval/tone/loss": 1.5},
}


def contest_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, end: str
) -> tuple[TimeToTargetConfig, Path]:
    """A contest whose first run writes a row and ends by the statement `end`, and its log."""

    def command(contest: Any, job: Job, folder: Path) -> list[str]:
        text = json.dumps(ROWS[row]) if row else ""
        write = f"open({str(folder / 'metrics.jsonl')!r}, 'w').write({text + chr(10)!r})"
        make = f"os.makedirs({str(folder)!r}, exist_ok=True); {write}; " if row else ""
        return ["python", "-c", f"import os, sys; {make}print('why it ended', flush=True); {end}"]

    monkeypatch.setattr(time_to_target, "command_of", command)
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "one.yaml"
    path.write_text(STARTER.read_text())
    config = TimeToTargetConfig(
        (str(path),), out=str(tmp_path / "out"), runs=str(tmp_path / "runs"), seconds=0.001
    )
    monkeypatch.setattr(time_to_target.time, "monotonic", iter(range(9)).__next__)
    return dataclasses.replace(config, seconds=1.5), tmp_path / "out" / "one" / LOG


@pytest.mark.parametrize(
    ("row", "end", "message"),
    [
        ("", "sys.exit(2)", "exit code 2, and did not diverge: why it ended; the same command"),
        ("done", "os.kill(os.getpid(), 9)", "exit code -9, and did not diverge"),
        ("done", "sys.exit(2)", "exit code 2, and did not diverge"),
        ("other", "", "never logged the contest's metric eval/tone/loss; it has eval/other/loss"),
    ],
)
def test_a_run_that_has_no_result_is_not_taken_for_a_bad_one(
    row: str, end: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, log = contest_of_one_run(tmp_path, monkeypatch, row, end)
    with pytest.raises(ValueError, match=message):
        main(config)
    assert not log.exists()


def test_a_run_that_diverged_missed_the_target_and_a_stopped_one_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, log = contest_of_one_run(tmp_path, monkeypatch, "diverged", "sys.exit(2)")
    main(config)
    [one] = read_log(log)
    assert one.value == math.inf
    config, log = contest_of_one_run(tmp_path / "stopped", monkeypatch, "done", "sys.exit(75)")
    with pytest.raises(SystemExit) as stopped:
        main(config)
    assert stopped.value.code == exits.STOPPED
    assert not log.exists()


def test_half_a_line_of_a_killed_contest_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, log = contest_of_one_run(tmp_path, monkeypatch, "done", "")
    whole = {**result("score", 100, 101, 3.9).__dict__, "command": "python train.py"}
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(whole) + "\n" + json.dumps(whole)[:40])
    assert [one.value for one in read_log(log)] == [3.9]
    main(config)
    assert [one.value for one in read_log(log)] == [3.9, 1.5]


def test_a_contest_runs_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, log = contest_of_one_run(tmp_path, monkeypatch, "done", "")
    log.parent.mkdir(parents=True)
    with sole_user(log.parent), pytest.raises(ValueError, match="in use by another process"):
        main(config)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lengths: [100, 200]", "lengths: 100"),
        ("lengths: [100, 200]", "lengths: [many]"),
        ("target: 2.32", "target: low"),
    ],
)
def test_a_contest_of_other_types_is_refused_by_name(old: str, new: str, tmp_path: Path) -> None:
    text = STARTER.read_text()
    assert old in text
    (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"wrong.yaml: {new.split(':')[0]} "):
        read_contest(tmp_path / "wrong.yaml")


def test_an_entry_whose_run_failed_is_the_last_of_those_that_missed() -> None:
    rules = Rules(20.0, 0.1, 3, is_higher_better=True)
    scores = [
        score(name, [replace(result("score", 100, 1, value), entry=name)], rules)
        for name, value in (("failed", math.inf), ("near", 19.0))
    ]
    lines = describe(scores, rules).splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith(("| fai", "| nea"))]
    assert rows == ["near", "failed"]

"""sweep.py on the files of sweeps/, and with real runs of train.py."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sweep
from command_line.parser import parse_config
from config import Config
from tests.source_tree import ROOT
from training.reports import metrics
from trials.ledger import Trial, read_ledger
from trials.sweep_file import read_sweep

TINY = """\
program: train.py
method: grid
metric: {{name: eval/tone/loss, goal: minimize}}
parameters:
  optim.learning_rate: {{values: [0.01, 0.000001]}}
  training.steps: {{value: 4}}
  training.eval_every: {{value: 2}}
  parallel.devices: {{value: 1}}
command: ["${{env}}", "${{interpreter}}", "${{program}}", "--config={config}",
  "--data.records={records}", "--tracker.wandb=online", "${{args}}"]
"""


def write_tiny(folder: Path, records: Path) -> Path:
    path = folder / "tiny.yaml"
    config = ROOT / "tests" / "entry" / "tiny.yaml"
    path.write_text(TINY.format(config=config, records=records))
    return path


def call(*words: str) -> None:
    sweep.main(parse_config(sweep.SweepConfig, words))


def test_a_trial_s_words_are_train_s_and_switch_the_mirror_off(
    records_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    tiny = read_sweep(write_tiny(tmp_path, records_folder))
    settings = {"optim.learning_rate": 0.01, "training.steps": 4}
    words = sweep.command_of(tiny, Trial(0, settings), tmp_path / "out" / "000", "off")
    config = parse_config(Config, words[words.index("train.py") + 1 :])
    assert (config.optim.learning_rate, config.training.steps) == (0.01, 4)
    assert config.tracker.wandb == "off"  # the file says online
    assert config.output_dir == str(tmp_path / "out" / "000")


# trials/test_search.py runs sweeps of a smaller program, test_one_process.py trials of train.py.
@pytest.mark.slow
def test_train_runs_in_a_folder_of_its_own_for_each_trial(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    file, out = write_tiny(tmp_path, records_folder), tmp_path / "out"
    call(str(file), f"--out={out}")
    output = capsys.readouterr().out
    assert "best: trial 0, eval/tone/loss" in output
    assert "--optim.learning_rate=0.01\n" in output
    with (out / "results.csv").open() as table:
        rows = list(csv.DictReader(table))
    for number, row in enumerate(rows):
        run = metrics.read(out / f"00{number}" / "metrics.jsonl")
        assert len(run) == 4
        assert float(row["eval/tone/loss"]) == run[-1]["eval/tone/loss"]
    assert not (
        out / "000" / "wandb_id.txt"
    ).exists()  # the file says online, the sweep switches it off
    call(str(file), f"--out={out}", "--resume")
    assert capsys.readouterr().out.splitlines()[-4:-1] == output.splitlines()[-4:-1]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_value_of_every_sweep_is_one_that_train_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep.check_flags(read_sweep(path), Path("runs/sweep"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim.learning_rate", "optim.learning_rat", "line 5: .*did you mean"),
        ("[0.01, 0.000001]", "[0.01, fast]", "line 5: .*optim.learning_rate"),
        ("{value: 4}", "{value: -4}", "line 6: .*training.steps"),
        ("program: train.py", "program: trian.py", "line 1: there is no trian.py here"),
        ("training.steps:", "output_dir:", "line 6: each run's folder is the sweep's"),
    ],
)
def test_settings_that_train_refuses_are_refused_before_the_first_run(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    message: str,
) -> None:
    monkeypatch.chdir(ROOT)
    file = write_tiny(tmp_path, records_folder)
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        call(str(file), f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_sweep_is_refused(
    records_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file, out = write_tiny(tmp_path, records_folder), tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match=r"--resume: .* holds no trials"):
        call(str(file), f"--out={out}", "--resume")
    (out / "sweep.yaml").write_text("program: other.py\n")
    with pytest.raises(ValueError, match="holds 0 trials of a file with other contents"):
        call(str(file), f"--out={out}")
    (out / "sweep.yaml").rename(out / "cat.jpg")
    with pytest.raises(ValueError, match="holds something else"):
        call(str(file), f"--out={out}")
    assert [path.name for path in out.iterdir()] == ["cat.jpg"]


def test_random_search_needs_a_number_of_runs(
    records_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = write_tiny(tmp_path, records_folder)
    file.write_text(file.read_text().replace("method: grid", "method: random"))
    with pytest.raises(ValueError, match=r"method random has no end: .*--count 16"):
        call(str(file), f"--out={tmp_path / 'out'}")


def test_a_stopped_sweep_exits_75_and_leaves_no_process(tmp_path: Path) -> None:
    program = ROOT / "tests" / "trials" / "quadratic.py"
    file, out = tmp_path / "file.yaml", tmp_path / "out"
    file.write_text(
        f"program: {program}\nmethod: grid\nmetric: {{name: loss}}\nparameters:\n"
        "  x: {values: [0.1, 0.01]}\n  pause: {value: 0.3}\n"
    )
    command = [sys.executable, "sweep.py", str(file), f"--out={out}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    half = out / "000" / "metrics.jsonl"
    while process.poll() is None and not (half.is_file() and half.read_text()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert "the same command resumes" in output
    assert [trial.end for trial in read_ledger(out)] == [None]
    assert "Traceback" not in output

"""train.py, called as users call it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import train
from command_line.parser import parse_config, run
from config import Config
from release import ReleaseConfig, release
from tests.entry.kills import killed
from tests.first_states import sharing
from training.reports import logbook, metrics
from training.update.shared import Programs

TINY = [f"--config={Path(__file__).parent / 'tiny.yaml'}"]


def tiny(records: Path, folder: Path, *more: str) -> list[str]:
    """The flags of a tiny run on one device, unless `more` gives their number."""
    chosen = any(flag.startswith("--parallel.devices=") for flag in more)
    return [
        *TINY,
        f"--data.records={records}",
        f"--output_dir={folder}",
        *([] if chosen else ["--parallel.devices=1"]),
        *more,
    ]


def weights(run: Path, out: Path) -> dict[str, np.ndarray]:
    release(ReleaseConfig(str(run), str(out), dtype="float32"))
    return load_file(out / "model.safetensors")


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["train/loss"]) for row in metrics.read(run / "metrics.jsonl")]


def examples(run: Path) -> list[int]:
    return [row["examples"] for row in metrics.read(run / "metrics.jsonl")]


WITH_GRID = "--grids.every=0"
FOUR_DEVICES = "--parallel.devices=0"
FOUR = [WITH_GRID, FOUR_DEVICES]
SPARING = ["--optim.schedule_unit=examples", "--training.param_dtype=bfloat16"]


@pytest.fixture(scope="module")
def straight_run(
    records_folder: Path, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run. Tests must not write into it. test_notebooks.py and test_pages.py train on
    all four devices, test_processes.py on four in two processes."""
    run = tmp_path_factory.mktemp("straight") / "run"
    with sharing(programs):
        train.main(parse_config(Config, tiny(records_folder, run, WITH_GRID)))
    return run


def test_a_run_leaves_all_that_it_takes_to_draw_and_to_judge(
    records_folder: Path, straight_run: Path
) -> None:
    run = straight_run
    rows = metrics.read(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["step"] for row in rows if "eval/tone/loss" in row] == [4, 8, 12]
    assert not any("eval/tone/wrong_caption" in row for row in rows)
    assert {p.name for p in (run / "checkpoints").iterdir() if p.name.isdecimal()} == {
        "5",
        "10",
        "12",
    }
    assert (run / "grids" / "step-000012.png").is_file()
    assert (run / "tokenizer" / "tokenizer.json").is_file()
    assert (run / "vqgan" / "model.safetensors").is_file()
    start = json.loads((run / "environment.json").read_text())[-1]
    assert {"command", "commit", "versions", "devices"} <= set(start)
    assert parse_config(Config, [f"--config={run}/config.yaml"]) == parse_config(
        Config, tiny(records_folder, run, WITH_GRID)
    )


@pytest.mark.parametrize(
    "settings",
    [
        [WITH_GRID],
        # vqgan/test_train.py resumes on four devices, with the same functions of training/.
        pytest.param(FOUR, marks=[pytest.mark.own_programs, pytest.mark.slow]),
        pytest.param(["--training.compute_dtype=float16"], marks=pytest.mark.slow),
        # training/test_ramps.py resumes in a ramp, in both precisions, with a smaller model.
        pytest.param(['--training.batch_ramp=["6:16"]', *SPARING], marks=pytest.mark.slow),
    ],
    ids=["adamw", "devices", "float16", "ramp"],
)
def test_stopped_and_resumed_equals_straight_through(
    records_folder: Path,
    straight_run: Path,
    tmp_path: Path,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, resumed = straight_run, tmp_path / "resumed"
    if settings != [WITH_GRID]:
        straight = tmp_path / "straight"
        train.main(parse_config(Config, tiny(records_folder, straight, *settings)))

    config = parse_config(Config, tiny(records_folder, resumed, *settings))
    with killed(monkeypatch):
        train.main(config)
    assert losses(resumed)[-1][0] >= 6
    train.main(config)
    assert losses(resumed) == losses(straight)
    assert examples(resumed) == examples(straight)
    if SPARING[0] in settings:
        assert examples(resumed) == [8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 144]
    one, other = weights(straight, tmp_path / "a"), weights(resumed, tmp_path / "b")
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_longer_run_continues_and_other_flags_are_refused(
    records_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = parse_config(Config, tiny(records_folder, run))
    train.main(config)
    capsys.readouterr()
    train.main(config)
    assert "is finished at step 12" in capsys.readouterr().out
    longer = replace(config, training=replace(config.training, steps=14, log_every=1))
    train.main(longer)
    assert losses(run)[-1][0] == 14
    with pytest.raises(ValueError, match=r"optim.learning_rate \(was 0.002, now 0.01\)"):
        train.main(replace(longer, optim=replace(longer.optim, learning_rate=0.01)))


def test_other_weights_are_a_start_with_a_larger_vocabulary_and_frozen_layers(
    records_folder: Path, straight_run: Path, tmp_path: Path
) -> None:
    first, second = straight_run, tmp_path / "second"
    tuned = tiny(
        records_folder,
        second,
        f"--init_from={first}",
        "--model.text_vocab_size=310",
        '--optim.freeze=["encoder*"]',
        "--optim.ema_decay=0.9",
        "--training.norms_every=2",
        "--training.steps=3",
    )
    with pytest.raises(
        ValueError, match=r"a different model: model.use_bias \(was False, now True\)"
    ):
        train.main(parse_config(Config, [*tuned, "--model.use_bias=true"]))
    train.main(parse_config(Config, tuned))
    texts = [entry["text"] for entry in logbook.read(second) if entry["event"] == "init"]
    assert texts == [
        f"weights of {first} at step 12",
        "text_embedding/tokens has 310 rows instead of 300: 300 kept, 10 are new",
    ]
    before, after = weights(first, tmp_path / "a"), weights(second, tmp_path / "b")
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in same if "encoder/" in name or "encoder." in name}
    assert not [name for name in same if name.startswith("decoder")]


def test_the_decay_branches_off_a_checkpoint_of_the_hold(
    records_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The branch equals, bit for bit, a run that had this decay from its start."""
    trunk, branched, straight = (tmp_path / name for name in ("trunk", "branched", "straight"))
    saves = ("--checkpoint.every=4", "--checkpoint.keep=0")
    train.main(parse_config(Config, tiny(records_folder, trunk, *saves)))
    assert losses(trunk)[-1][0] == 12
    decay = ("--training.steps=7", "--optim.decay_steps=3", *saves)
    words = tiny(records_folder, branched, *decay, f"--branch_from={trunk}/checkpoints/4")
    for _ in range(2):  # the second time it is finished
        train.main(parse_config(Config, words))
    assert "branched off" in (branched / "LOGBOOK.md").read_text()
    train.main(parse_config(Config, tiny(records_folder, straight, *decay)))
    assert losses(branched) == losses(straight)
    assert losses(branched)[:8] != losses(trunk)[:8]
    one, other = weights(branched, tmp_path / "a"), weights(straight, tmp_path / "b")
    assert all(np.array_equal(one[name], other[name]) for name in one)
    capsys.readouterr()
    gone = trunk.rename(tmp_path / "gone")  # a branch does not need its trunk
    train.main(parse_config(Config, words))
    gone.rename(trunk)
    for flags, expected in {
        f"--branch_from={tmp_path}": "is neither a run nor",
        f"--branch_from={trunk}/checkpoints/5": "there are: 4, 8, 12",
        f"--branch_from={trunk} --seed=1": "seed (was 0, now 1)",
        f"--branch_from={trunk} --init_from={trunk}": "give one",
    }.items():
        wrong = [*tiny(records_folder, tmp_path / "wrong"), *flags.split()]
        with pytest.raises(ValueError, match=re.escape(expected)):
            train.main(parse_config(Config, wrong))


# training/test_session.py stops a run in this process; test_exits.py has the code.
@pytest.mark.slow
def test_a_run_that_was_told_to_stop_is_saved_and_exits_75(
    records_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "train.py", *tiny(records_folder, run), "--training.steps=100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 240
    while not losses(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    done = losses(run)[-1][0]
    assert f"step {done} of 100000; the same command resumes" in out
    assert (run / "checkpoints" / str(done)).is_dir()


def test_wrong_input_is_one_line_and_exit_code_two(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = {
        "--model.dmi=3": "did you mean --model.dim or --model.encoder.dim?",
        "--training.steps=none": "training.steps",
        "--optim.clip_norm=.nan": "optim.clip_norm is nan",
        "--config=presets/nope.yaml": "there are: presets/",
        "--training.batch_size=9 --training.accumulation_steps=2": "try 8",
        "--model.grid_size=4": "use --model.grid_size=2",
        "--data.records=nowhere": "no token records in nowhere",
        "--output_dir=tests": "holds something that is not a run",
    }
    for flags, expected in wrong.items():
        given = {word.partition("=")[0] for word in flags.split()} - {"--config"}
        words = tiny(records_folder, tmp_path / "run", FOUR_DEVICES)
        words = [*(w for w in words if w.partition("=")[0] not in given), *flags.split()]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit) as stop:
            run(train.main, Config, prog="train.py", about="")
        assert stop.value.code == 2, flags
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()

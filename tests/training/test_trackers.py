"""Whatever wandb does, metrics.jsonl has every row, and training continues."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.config import TrackerConfig, TrainingConfig
from training.reports import metrics, mirror, trackers
from training.reports.metrics import Counts
from training.reports.trackers import Tracker

COUNTS = Counts(lambda step: 4 * step)

# A fake wandb. It notes its calls; the variable FAULT names the call that fails.
WANDB = """
import os, sys, time
from pathlib import Path
def note(text):
    with (Path(__file__).parent / "notes.txt").open("a") as file:
        file.write(text + "\\n")
def fail(at):
    if os.environ["FAULT"] == at:
        raise ConnectionError(f"no luck\\nat {at}")
class Run:
    axis = ""
    def define_metric(self, name, step_metric):
        self.axis = f"{name} over {step_metric}"
    def log(self, row, step):
        assert self.axis == "* over examples"
        if step == 4:
            fail("log")
        if os.environ["FAULT"] == "hang":
            time.sleep(5)
            os._exit(1)
        note(f"log {step} {','.join(row)[:10]}")
    def finish(self, exit_code):
        fail("finish")
        note(f"finish {exit_code}")
def init(mode, **more):
    note("init " + mode)
    if mode == "online":
        fail("online")
    fail("init")
    run = Run()
    run.id = os.environ.get("WANDB_RUN_ID", more["id"])  # a sweep's agent sets it
    return run
def teardown():
    note("teardown")
class Settings:
    def __init__(self, **more):
        pass
class Image:
    def __init__(self, path):
        assert Path(path).name == "grid.png"
"""


def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str = "") -> Path:
    """Install the fake wandb for the mirror's process. Returns the file of its notes."""
    place = tmp_path / "fake"
    place.mkdir()
    (place / "wandb.py").write_text(WANDB)
    (place / "notes.txt").touch()
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setenv("FAULT", fault)
    return place / "notes.txt"


def train(folder: Path, mode: str = "offline", broken_at: int = 0) -> list[int]:
    """Make six updates with a grid after the fifth. Returns the steps in metrics.jsonl."""
    training = TrainingConfig(steps=6, batch_size=4, log_every=1)
    tracker_config = TrackerConfig(wandb=mode)  # type: ignore[arg-type]
    with Tracker(tracker_config, training, folder, 0, {"seed": 0}, COUNTS) as tracker:
        for step in range(1, 7):
            if step == broken_at:
                raise FloatingPointError("the loss is nan")
            tracker.record(step, {"time/step_ms": 1.0, "train/loss": float("nan")})
            if step == 5:
                tracker.image(step, "grid", folder / "grid.png")
            tracker.sync()
    return [row["step"] for row in metrics.read(folder / "metrics.jsonl")]


ROOT = Path(mirror.__file__).parents[2]
HOW = {
    "modes": ["offline"],
    "folder": "run",
    "project": "",
    "id": "a",
    "settings": {},
    "trainer": 1,
}
BEGIN = json.dumps(HOW) + "\n"
EVERY = [1, 2, 3, 4, 5, 6]
LOGGED = [f"log {n} step,examp" for n in (1, 2, 3, 4, 5)] + ["log 5 grid", "log 6 step,examp"]


def test_the_mirror_has_every_row_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = fake_wandb(tmp_path, monkeypatch)
    assert train(tmp_path) == EVERY
    assert notes.read_text().splitlines() == ["init offline", *LOGGED, "finish 0"]
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("fault", "mode", "noted"),
    [
        ("init", "online", ["init online", "teardown", "init offline", "teardown"]),
        ("online", "online", ["init online", "teardown", "init offline", *LOGGED, "finish 0"]),
        ("init", "offline", ["init offline", "teardown"]),
        ("log", "offline", ["init offline", *LOGGED[:3]]),
        ("finish", "offline", ["init offline", *LOGGED]),
        ("", "off", []),
    ],
)
def test_a_mirror_that_fails_is_reported_in_a_line_and_gone_without(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    mode: str,
    noted: list[str],
) -> None:
    notes = fake_wandb(tmp_path, monkeypatch, fault)
    assert train(tmp_path, mode) == EVERY
    assert notes.read_text().splitlines() == noted
    lines = [line for line in capfd.readouterr().err.splitlines() if "wandb" in line]
    assert len(lines) == noted.count("teardown") + (fault in ("log", "finish"))
    assert all("no luck at" in line for line in lines)


def test_rows_with_norms_of_all_tensors_are_mirrored_whenever_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = fake_wandb(tmp_path, monkeypatch)
    training = TrainingConfig(steps=9, batch_size=4, log_every=4)
    with Tracker(TrackerConfig(wandb="offline"), training, tmp_path, 0, {}, COUNTS) as tracker:
        for step in range(1, 10):
            norms = {"norm/grad/a": 1.0, "ratio/update": 0.1} if step % 3 == 0 else {}
            tracker.record(step, {"time/step_ms": 1.0, "train/loss": 1.0, **norms})
    logged = [line.split()[1] for line in notes.read_text().splitlines() if "log" in line]
    assert logged == ["3", "4", "6", "8", "9"]


def test_rows_that_a_rollback_takes_back_never_reach_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb's steps can only rise, and it never deletes a row."""
    notes = fake_wandb(tmp_path, monkeypatch)
    training = TrainingConfig(steps=6, batch_size=4, log_every=1, on_spike="rollback")
    sent: list[tuple[int, float]] = []
    log = mirror.Mirror.log

    def noted(self: mirror.Mirror, row: dict, step: int) -> None:
        sent.append((step, row["train/loss"]))
        log(self, row, step)

    monkeypatch.setattr(mirror.Mirror, "log", noted)
    config = TrackerConfig(wandb="offline")
    with Tracker(config, training, tmp_path, 0, {}, COUNTS) as tracker:
        for step in range(1, 5):
            tracker.record(step, {"time/step_ms": 1.0, "train/loss": 1.0})
            tracker.image(step, "grid", tmp_path / "grid.png")
            if step == 2:
                tracker.release(2)
        assert sent == [(1, 1.0), (2, 1.0)]
        tracker.rewind(2)
        for step in range(3, 7):
            tracker.record(step, {"time/step_ms": 1.0, "train/loss": 2.0})
    assert sent == [(1, 1.0), (2, 1.0), *((step, 2.0) for step in range(3, 7))]
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["train/loss"]) for row in rows] == sent
    shown = [line for line in notes.read_text().splitlines() if "grid" in line]
    assert shown == ["log 1 grid", "log 2 grid"]


def test_the_id_noted_is_that_of_the_run_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep's agent overrides the requested id."""
    fake_wandb(tmp_path, monkeypatch)
    train(tmp_path)
    own = (tmp_path / "wandb_id.txt").read_text()
    assert len(own) == 8
    monkeypatch.setenv("WANDB_RUN_ID", "agents1d")
    train(tmp_path)
    assert (tmp_path / "wandb_id.txt").read_text() == "agents1d"


def test_a_mirror_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_wandb(tmp_path, monkeypatch, "hang")
    monkeypatch.setattr(trackers, "WAIT_AT_END", 0.1)
    before = time.monotonic()
    assert train(tmp_path) == EVERY
    assert time.monotonic() - before < 5
    assert "wandb is not ready and is left to itself" in capfd.readouterr().err


def test_a_mirror_that_hangs_is_given_up_after_so_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wandb(tmp_path, monkeypatch, "hang")
    script = "from training.reports import mirror; mirror.MOST_WAITING = 3; mirror.main()"
    text = BEGIN + '{"row": {"a": 1}, "step": 1}\n' * 9
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, input=text, text=True, capture_output=True
    )
    assert done.returncode == 0
    assert "wandb takes no more rows" in done.stderr
    assert time.monotonic() - before < 4


def test_a_fault_of_training_is_not_swallowed_with_those_of_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = fake_wandb(tmp_path, monkeypatch)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        train(tmp_path, broken_at=4)
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert notes.read_text().splitlines()[-1] == "finish 1"


def test_the_mirror_of_a_killed_run_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = fake_wandb(tmp_path, monkeypatch)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb_id.txt").write_text("a")
    begin = json.dumps({**HOW, "folder": str(tmp_path / "run")}) + "\n"
    text = begin + '{"row": {"a": 1}, "step": 1}\n{"row": {"a"'
    with subprocess.Popen(
        [sys.executable, "-m", "training.reports.mirror"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.flush()
        while "log" not in notes.read_text() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)  # a scheduler sends it to all processes
        process.stdin.close()
        assert process.wait(10) == 0
    assert notes.read_text().splitlines() == ["init offline", "log 1 a", "finish 1"]


def test_lines_without_a_terminal_say_how_long_the_rest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(trackers.time, "monotonic", lambda: clock[0])
    training = TrainingConfig(steps=200, log_every=50)
    with Tracker(TrackerConfig(), training, tmp_path, 0, {}, COUNTS) as tracker:
        for step in range(1, 201):
            clock[0] += 2.0 if step > 1 else 90.0  # the first waits for its compilation
            tracker.record(step, {"train/loss": 1.0, "time/step_ms": 7.0})
    lines = capsys.readouterr().err.splitlines()
    left = ["5 min left", "3 min left", "100 s left", "speed/examples_per_s 571.4"]
    assert [line.rpartition("  ")[2] for line in lines] == left

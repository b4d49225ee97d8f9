"""Drills of train.py as a process: kill -9, SIGTERM, poisoned data. `make drills` runs them.

python -m pytest -m slow tests/entry/test_drills.py    prints each drill's figure at the end
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.entry.test_train import losses, tiny
from training.reports import metrics
from training.saved.steps import SavedSteps

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
STEPS, EVERY, KILLS = 300, 20, 20
Figure = Callable[[str, object], None]


def start(words: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def last_step(run: Path) -> int:
    """The step of the last complete row in a metrics.jsonl that is being written."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines()[-2:] if path.is_file() else []
    steps = []
    for line in lines:
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            continue
    return max(steps, default=0)


def saved(run: Path) -> dict[str, Any]:
    """The newest checkpoint's step and the digest of each array, which identify it bit for bit."""
    with SavedSteps(run / "checkpoints") as checkpoints:
        step = checkpoints.steps()[-1]
        return {"step": step, **checkpoints.digests(step)}


def wait_for(process: subprocess.Popen, run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while last_step(run) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def flags(records: Path, run: Path, *more: str) -> list[str]:
    usual = {
        "--training.steps": STEPS,
        "--checkpoint.every": EVERY,
        "--training.eval_every": 0,
        "--parallel.devices": 2,
    }
    given = {word.partition("=")[0] for word in more}
    left = [f"{flag}={value}" for flag, value in usual.items() if flag not in given]
    return tiny(records, run, *left, *more)


def finish(words: list[str]) -> str:
    process = start(words)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return out


def test_twenty_kills_change_no_bit(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(flags(records_folder, straight))
    rng, lost = random.Random(0), [0]
    words = flags(records_folder, killed)
    for target in sorted(rng.sample(range(STEPS - 5), KILLS)):
        before = last_step(killed)
        process = start(words, PYTHONUNBUFFERED="1")
        wait_for(process, killed, target)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        out, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, out
        if "resumed from step " in out:
            lost.append(before - int(out.split("resumed from step ")[1].split()[0]))
    finish(words)
    assert losses(killed) == losses(straight)
    assert saved(killed) == saved(straight)
    assert max(lost) <= EVERY
    record_property(
        "figure",
        f"{KILLS} kills: same bits; at most {max(lost)} updates done again, of {EVERY} a save",
    )


@pytest.mark.parametrize("moment", ["compiling", "training", "drawing"])
def test_sigterm_ends_well(
    records_folder: Path, tmp_path: Path, record_property: Figure, moment: str
) -> None:
    run = tmp_path / "run"
    words = flags(
        records_folder, run, "--training.steps=1000000", "--model.encoder_depth=12",
        "--model.unroll=12", "--grids.every=40",
    )  # fmt: skip
    process = start(words, JAX_ENABLE_COMPILATION_CACHE="false", PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    if moment == "compiling":
        for line in process.stdout:
            if "compiling; the first update" in line:
                break
        time.sleep(0.3)
    else:
        wait_for(process, run, 39 if moment == "drawing" else 20)
        time.sleep(0.2 if moment == "drawing" else 0)
    before, steps = time.monotonic(), last_step(run)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - before
    assert process.returncode == 75, out
    assert "the same command resumes from here" in out
    rows = metrics.read(run / "metrics.jsonl")
    if moment != "compiling":
        assert saved(run)["step"] == rows[-1]["step"] >= steps
    assert seconds < 15
    record_property(
        "figure", f"SIGTERM while {moment}: saved at {len(rows)}, exit 75 after {seconds:.1f} s"
    )


def test_a_full_disk_is_one_line_and_no_checkpoint_is_lost(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        run, ballast = disk / "run", disk / "ballast"
        process = start(flags(records_folder, run, "--training.steps=1000000"))
        wait_for(process, run, 45)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 2, out
        assert "Traceback" not in out
        lines = [line for line in out.splitlines() if "No space left" in line]
        before = max(saved(run)["step"], 0)
        ballast.unlink()
        out = finish(flags(records_folder, run, "--training.steps=300"))
        assert f"resumed from step {before}" in out
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    record_property("figure", f"a full disk: {len(lines)} line(s), went on from step {before}")

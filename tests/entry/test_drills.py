"""train.py under fire, as processes: kill -9, SIGTERM, poisoned data. `make drills` runs these.

python -m pytest -m slow -s tests/entry/test_drills.py        each drill prints its figure
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.entry.test_train import losses, tiny
from training import logbook, metrics
from training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
STEPS, EVERY, KILLS = 300, 20, 20


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
    """The newest whole row's, read from the end of a file that is being written."""
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
    """What identifies the newest checkpoint, bit for bit: its step and the digest of each array."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None
        return {"step": step, **checkpoints.digests(step)}


def wait_for(process: subprocess.Popen, run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while last_step(run) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def flags(records: Path, run: Path, *more: str) -> list[str]:
    return [
        *tiny(records, run),
        f"--training.steps={STEPS}",
        f"--checkpoint.every={EVERY}",
        "--training.eval_every=0",
        "--parallel.devices=2",
        *more,
    ]


def finish(words: list[str]) -> str:
    process = start(words)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return out


def test_twenty_kills_change_no_bit(records_folder: Path, tmp_path: Path) -> None:
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
    print(f"\n{KILLS} kills: same bits; at most {max(lost)} updates done again, of {EVERY} a save")
    # The save that is on its way when the kill comes is lost too: 20 updates take 0.2 s here.
    assert max(lost) <= 2 * EVERY


@pytest.mark.parametrize("moment", ["compiling", "training", "drawing"])
def test_sigterm_ends_well(records_folder: Path, tmp_path: Path, moment: str) -> None:
    run = tmp_path / "run"
    words = flags(
        records_folder, run, "--training.steps=1000000", "--model.encoder_depth=12",
        "--model.unroll=12", "--training.grid_every=40",
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
    assert process.returncode == 0, out
    assert "the same command goes on from here" in out
    rows = metrics.read(run / "metrics.jsonl")
    if moment != "compiling":
        assert saved(run)["step"] == rows[-1]["step"] >= steps
    print(f"\nSIGTERM while {moment}: saved at {len(rows)}, exit 0 after {seconds:.1f} s")
    assert seconds < 15


def test_a_full_disk_is_one_line_and_no_checkpoint_is_lost(
    records_folder: Path, tmp_path: Path
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
        told = [line for line in out.splitlines() if "No space left" in line]
        before = max(saved(run)["step"], 0)
        ballast.unlink()
        out = finish(flags(records_folder, run, "--training.steps=300"))
        assert f"resumed from step {before}" in out
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    print(f"\na full disk: {told}, went on from {before}")


def test_no_number_in_one_and_in_five_updates(records_folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "replay")]
    for run in runs:
        words = flags(records_folder, run, "--training.steps=60")
        script = POISON.format(words=words, steps=[20, 30, 31, 32, 33, 34])
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    events = [(e["event"], e["step"]) for e in logbook.read(runs[0]) if e["event"] == "skip"]
    assert events == [("skip", n + 1) for n in (20, 30, 31, 32, 33, 34)]
    assert losses(runs[0])[-1][1] < losses(runs[0])[15][1]
    assert saved(runs[0]) == saved(runs[1])
    print(f"\nNaN in 1 and in 5 updates running: {len(events)} skipped, replay has the same bits")


POISON = """
import train
from config import Config, parse_config
original = train.make_loss
def make_loss(*words, **more):
    loss = original(*words, **more)
    def poisoned(params, batch, keys):
        value, metrics = loss(params, batch, keys)
        import jax.numpy as jnp
        return jnp.where(batch["poison"].any(), jnp.nan, value), metrics
    return poisoned
train.make_loss = make_loss
opened = train.open_batches
def open_batches(*words, **more):
    batches = opened(*words, **more)
    import numpy as np
    class Poisoned:
        rows = batches.rows
        def at(self, n):
            batch = batches.at(n)
            return {{**batch, "poison": np.full(len(batch["example_index"]), n in {steps})}}
    return Poisoned()
train.open_batches = open_batches
train.main(parse_config(Config, {words}))
"""

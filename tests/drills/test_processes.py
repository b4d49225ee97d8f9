"""Two processes under fire: one killed, both killed, one told to stop; under a real mpirun."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.entry.test_drills import last_step, saved, wait_for
from tests.entry.test_processes import finish, start
from tests.entry.test_train import TINY, losses

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
STEPS, EVERY, KILLS = 300, 20, 9
FLAGS = [f"--training.steps={STEPS}", f"--checkpoint.every={EVERY}", "--training.eval_every=0"]
Figure = Callable[[str, object], None]


def kill(both: list[subprocess.Popen], victims: list[int]) -> float:
    """kill -9; the seconds until a survivor has ended, with a line that says why."""
    for victim in victims:
        both[victim].kill()
    began = time.monotonic()
    for number in {0, 1} - set(victims):
        _, error = both[number].communicate(timeout=60)
        assert both[number].returncode > 0
        assert "another process of this run is gone" in error
    seconds = time.monotonic() - began
    for victim in victims:
        out, error = both[victim].communicate(timeout=60)
        assert both[victim].returncode == -signal.SIGKILL, out + error
    return seconds


def test_kills_of_one_and_of_both_change_no_bit(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    said = finish(start(records_folder, straight, *FLAGS), 240)
    assert [status for status, *_ in said] == [0, 0], said
    rng, lost, seconds = random.Random(1), [0], [0.0]
    for number, target in enumerate(sorted(rng.sample(range(1, STEPS - 10), KILLS))):
        before = last_step(killed)
        both = start(records_folder, killed, *FLAGS)
        wait_for(both[0], killed, target)
        time.sleep(rng.uniform(0, 0.05))
        seconds.append(kill(both, [[0], [1], [0, 1]][number % 3]))
        steps = [int(path.name) for path in (killed / "checkpoints").glob("[0-9]*[0-9]")]
        lost.append(last_step(killed) - max(steps, default=0))
        assert before <= target
    said = finish(start(records_folder, killed, *FLAGS), 240)
    assert [status for status, *_ in said] == [0, 0], said
    assert losses(killed) == losses(straight)
    assert saved(killed) == saved(straight)
    assert max(lost) <= EVERY
    assert max(seconds) < 30
    record_property(
        "figure",
        f"{KILLS} kills of one or both of two processes: same bits; survivors gone within "
        f"{max(seconds):.1f} s; at most {max(lost)} updates done again, of {EVERY} a save",
    )


def test_one_that_is_told_to_stop_before_the_first_update_tells_the_other(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    run = tmp_path / "run"
    both = start(records_folder, run, "--training.steps=100000", "--model.unroll=4")
    while not (run / "environment.json").is_file() and both[0].poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    both[1].send_signal(signal.SIGTERM)
    said = finish(both, 60)
    assert [status for status, *_ in said] == [0, 0], said
    seconds = time.monotonic() - began
    assert seconds < 15
    record_property("figure", f"SIGTERM to one while compiling: both exit 0 in {seconds:.1f} s")


@pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun: apt install openmpi-bin")
def test_processes_meet_under_a_real_mpirun(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    more = ["--training.steps=20", "--training.eval_every=0"]
    flags = [*TINY, *more, f"--data.records={records_folder}", f"--output_dir={run}"]
    words = ["mpirun", "--oversubscribe", "-n", "2", sys.executable, "train.py", *flags]
    devices = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    environment = {**os.environ, "XLA_FLAGS": devices, "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4 × cpu in 2 processes" in done.stdout
    finish(start(records_folder, other, *more), 240)
    assert losses(run) == losses(other)
    assert saved(run) == saved(other)
    record_property("figure", "2 processes under mpirun: the bits of two started by hand")

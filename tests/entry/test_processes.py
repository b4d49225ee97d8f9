"""Several real processes on this machine train one run."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import train
from command_line.parser import parse_config
from config import Config
from tests.entry.test_train import TINY, WITH_GRID, losses, tiny, weights

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def start(
    records: Path, run: Path, *more: str, second: Sequence[str] = ()
) -> list[subprocess.Popen]:
    """Start train.py in two processes with two devices each."""
    words = [*TINY, f"--data.records={records}", f"--output_dir={run}", *more]
    return start_both("train.py", *words, second=second)


def start_both(*words: str, second: Sequence[str] = (), count: int = 2) -> list[subprocess.Popen]:
    """Start a program in `count` processes with two devices each, which form one run. `second`:
    flags of the second process, in place of the same flags in `words`."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    meeting = [
        f"--parallel.coordinator=localhost:{free_port()}",
        f"--parallel.num_processes={count}",
    ]
    own = {word.partition("=")[0] for word in second}
    others = [*(word for word in words if word.partition("=")[0] not in own), *second]
    return [
        subprocess.Popen(
            [sys.executable, *(others if i else words), *meeting, f"--parallel.process_id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes: list[subprocess.Popen], timeout: float) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each process."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(one.returncode, *words) for one, words in zip(processes, outputs, strict=True)]


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        rows = losses(run)
        if rows and rows[-1][0] >= step:
            return
        time.sleep(0.1)
    raise AssertionError("no progress")


def assert_same_weights(one: Path, other: Path, tmp_path: Path) -> None:
    a, b = weights(one, tmp_path / f"{one.name}-w"), weights(other, tmp_path / f"{other.name}-w")
    difference = sum(np.square(a[name] - b[name]).sum() for name in a)
    size = sum(np.square(value).sum() for value in a.values())
    assert np.sqrt(difference / size) <= 1e-5


def test_two_processes_train_what_one_does(records_folder: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    ends = finish(start(records_folder, two), 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    assert "2 processes" in ends[0][1]
    # Only the first process prints. gloo's lines come from two threads and may leave an empty line.
    assert not [line for line in ends[1][1].splitlines() if line and "peer ranks" not in line]
    train.main(parse_config(Config, tiny(records_folder, one)))
    assert [step for step, _ in losses(two)] == list(range(1, 13))
    np.testing.assert_allclose(np.array(losses(one)), np.array(losses(two)), rtol=1e-5)
    assert_same_weights(one, two, tmp_path)


@pytest.mark.slow
def test_one_process_continues_with_what_two_saved(records_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(start(records_folder, run, "--training.steps=4", "--parallel.mode=mesh", WITH_GRID), 240)
    assert len(list((run / "grids").iterdir())) == 1
    flags = [*TINY, f"--data.records={records_folder}", f"--output_dir={run}"]
    cut = ["--parallel.mode=mesh", "--parallel.fsdp=2", "--parallel.tensor=2"]
    train.main(parse_config(Config, [*flags, "--training.steps=6", *cut]))
    train.main(parse_config(Config, [*flags, "--training.steps=8"]))
    assert [step for step, _ in losses(run)] == list(range(1, 9))


@pytest.mark.slow
def test_processes_agree_on_the_step_to_stop_at(records_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = start(records_folder, run, "--training.steps=100000", "--parallel.mode=mesh")
    wait_for_step(run, 4)
    both[1].send_signal(signal.SIGTERM)
    ends = finish(both, 60)
    assert [status for status, *_ in ends] == [75, 75], ends
    done = losses(run)[-1][0]
    assert f"step {done} of 100000; the same command resumes" in ends[0][1]
    assert (run / "checkpoints" / str(done)).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_peer_ends_the_survivor(records_folder: Path, tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    both = start(records_folder, run, "--training.steps=100000")
    wait_for_step(run, 4)
    both[victim].kill()
    began = time.monotonic()
    survivor = both[1 - victim]
    _, error = survivor.communicate(timeout=60)
    seconds = time.monotonic() - began
    both[victim].communicate()
    assert survivor.returncode == 3
    assert "another process of this run died" in error
    assert seconds < 30


# training/test_agreement.py holds this with pretended processes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["--optim.clip_norm=2", "--name=two"], 'name ("pastel" in process 0, "two" in process 1)'),
        (["--data.records=nowhere"], "no token records in nowhere"),
    ],
    ids=["settings", "records"],
)
def test_processes_that_do_not_agree_all_end_in_a_line(
    records_folder: Path, tmp_path: Path, second: list[str], message: str
) -> None:
    run = tmp_path / "run"
    ends = finish(start(records_folder, run, second=second), 240)
    assert [status for status, *_ in ends] == [2, 2], ends
    for _, _, error in ends:
        assert message in error
        assert "Traceback" not in error
    assert not run.exists()


# training/test_peers.py holds this with a socket in place of a process.
@pytest.mark.slow
def test_one_that_fails_alone_before_the_first_update_ends_the_other_in_a_line(
    records_folder: Path, tmp_path: Path
) -> None:
    """Only process 0 needs the lock of the run's folder, which this test holds."""
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ends = finish(start(records_folder, run), 240)
    assert [status for status, *_ in ends] == [2, 3], ends
    first, second = (error.splitlines() for *_, error in ends)
    assert first[-1] == f"train.py: output_dir {run} is in use by another process"
    assert "another process of this run died" in second[-1]
    # jax would abort with a stack trace, and print F1127 12:00:00
    assert not [line for line in second if "Traceback" in line or line.startswith("F")]

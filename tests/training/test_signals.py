"""A process that is told to stop ends well, whatever it is doing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Python's handlers do not run in a C function that does not return, such as a compilation.
BUSY = """
import hashlib
from training import signals
signals.PATIENCE = {patience}
with signals.StopSignal() as stop:
    stop.leave = lambda: print("left")
    {before}
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
    {after}
print("ended, received", stop.received)
"""


EARLY = """
import hashlib
from training import signals
signals.leave_early()
{before}
print("busy", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
print("went on")
"""
WITHIN = "with signals.StopSignal() as stop: stop.shield(None)"


def end(
    before: str = "pass", after: str = "pass", rounds: int = 10**9, patience: float = 0.2
) -> tuple[int, list[str]]:
    """What such a process says after SIGTERM, and its exit code."""
    return end_of(BUSY.format(before=before, after=after, rounds=rounds, patience=patience))


def end_of(script: str) -> tuple[int, list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.terminate()
    out, _ = process.communicate(timeout=15)
    return process.returncode, out.splitlines()


def test_where_nothing_was_trained_yet_it_just_leaves() -> None:
    assert end() == (0, ["left"])


def test_what_can_be_rescued_is() -> None:
    assert end("stop.shield(lambda: print('saved'))") == (0, ["saved", "left"])


def test_while_the_main_thread_has_the_state_it_is_waited_for() -> None:
    assert end("stop.shield(None)", rounds=2 * 10**6) == (0, ["ended, received True"])


def test_a_main_thread_that_comes_back_in_time_ends_by_itself() -> None:
    assert end(rounds=2 * 10**6, patience=60.0) == (0, ["ended, received True"])


def test_a_rescue_that_fails_does_not_keep_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert end("stop.shield(lambda: 1 / 0)") == (0, ["left"])
    assert time.monotonic() - start < 14
    assert "since the last checkpoint is lost: division by zero" in capfd.readouterr().err


@pytest.mark.parametrize("before", ["pass", WITHIN])
def test_outside_of_training_there_is_nothing_to_wait_for(before: str) -> None:
    told = "told to stop outside of training; the same command goes on from here"
    assert end_of(EARLY.format(before=before, rounds=10**9)) == (0, [told])


def test_within_training_the_stop_signal_has_the_word() -> None:
    script = "from training import signals\nsignals.leave_early()\n" + BUSY
    words = {"before": "stop.shield(None)", "after": "pass", "rounds": 2 * 10**6, "patience": 0.2}
    assert end_of(script.format(**words)) == (0, ["ended, received True"])

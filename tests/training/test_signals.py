"""A process that is told to stop ends well, whatever it is doing at that moment."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line.parser import parse_config
from config import Config
from training.config import TrainingConfig
from training.exits import STOP_SIGNALS
from training.spans import parse_duration

ROOT = Path(__file__).parent.parent.parent
# Python runs no signal handler during a long C call such as a compilation.
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
WITHIN = "with signals.StopSignal() as stop: stop.forbid_end()"


def end(
    before: str = "pass", after: str = "pass", rounds: int = 10**9, patience: float = 0.2
) -> tuple[int, list[str]]:
    """The exit code and the printed lines of such a process after SIGTERM."""
    return end_of(BUSY.format(before=before, after=after, rounds=rounds, patience=patience))


def end_of(script: str, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=15)
    return process.returncode, out.splitlines()


def test_where_nothing_was_trained_yet_it_just_leaves() -> None:
    assert end() == (75, ["left"])


def test_the_save_is_made_after_a_signal() -> None:
    assert end("stop.allow_end(lambda: print('saved'))") == (75, ["saved", "left"])


def test_while_the_main_thread_has_the_state_it_is_waited_for() -> None:
    assert end("stop.forbid_end()", rounds=2 * 10**6) == (0, ["ended, received True"])


def test_a_main_thread_that_comes_back_in_time_ends_by_itself() -> None:
    assert end(rounds=2 * 10**6, patience=60.0) == (0, ["ended, received True"])


def test_a_save_that_fails_does_not_keep_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert end("stop.allow_end(lambda: 1 / 0)") == (75, ["left"])
    assert time.monotonic() - start < 14
    assert "since the last checkpoint is lost: division by zero" in capfd.readouterr().err


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_of_a_scheduler_or_a_terminal_saves(number: int) -> None:
    # If the tests run under nohup, their child processes ignore SIGHUP.
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    script = {"before": "stop.allow_end(lambda: print('saved'))", "after": "pass", "patience": 0.2}
    found = end_of(heard + BUSY.format(**script, rounds=10**9), number)
    assert found == (75, ["saved", "left"])
    early = EARLY.format(before="pass", rounds=10**9)
    message = "asked to stop outside of training; the same command resumes from here"
    assert end_of(heard + early, number) == (75, [message])


def test_nohup_is_respected() -> None:
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    script = {"before": "stop.forbid_end()", "after": "pass", "rounds": 2 * 10**6, "patience": 0.2}
    lines = ["ended, received False"]
    assert end_of(ignored + BUSY.format(**script), signal.SIGHUP) == (0, lines)
    assert end_of(ignored + EARLY.format(before="pass", rounds=2 * 10**6), signal.SIGHUP) == (
        0,
        ["went on"],
    )


def test_a_duration_ends_a_run_as_a_signal_does(capfd: pytest.CaptureFixture[str]) -> None:
    script = BUSY.format(
        before="signals.STARTED -= 3600; stop.by('1:00')", after="pass", rounds=10**9, patience=0.2
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (75, "busy\nleft\n")
    assert "training.stop_after 1:00 is over" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["1", "1:5", "1:60", "-1:00", "a:00", "1:00:00"])
def test_a_duration_has_hours_and_minutes(text: str) -> None:
    assert parse_duration("11:45") == 11 * 3600 + 45 * 60
    with pytest.raises(ValueError, match="HH:MM, such as 11:45"):
        TrainingConfig(stop_after=text)


def test_times_and_ranges_need_no_quotes_in_a_file(tmp_path: Path) -> None:
    """YAML 1.1 reads 11:45 as the base 60 number 705."""
    file = tmp_path / "job.yaml"
    file.write_text("training: {stop_after: 11:45, profile: 10:20}\n")
    training = parse_config(Config, [f"--config={file}"]).training
    assert (training.stop_after, training.profile) == ("11:45", "10:20")


CLOSED = """
import sys, time
from pathlib import Path
from common.terminal import command
from training import signals
signals.leave_early()
with command("train.py"), signals.StopSignal() as stop:
    stop.forbid_end()
    print("busy", flush=True)
    while not stop.received:
        time.sleep(0.01)
    for n in range(3):
        print("words for nobody", flush=True)
        print("more of them", file=sys.stderr)
    Path(sys.argv[1]).write_text("saved")
sys.exit(75)
"""


def test_a_closed_terminal_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", CLOSED, str(saved)])
    assert b"busy" in os.read(terminal, 100)
    os.close(terminal)  # sends SIGHUP; from then on writing fails
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert saved.read_text() == "saved"


def test_a_pipe_that_nobody_reads_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED, str(saved)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"busy\n"
    process.stdout.close()
    process.terminate()
    assert process.wait(15) == 75
    assert saved.read_text() == "saved"


@pytest.mark.parametrize("before", ["pass", WITHIN])
def test_outside_of_training_there_is_nothing_to_wait_for(before: str) -> None:
    message = "asked to stop outside of training; the same command resumes from here"
    assert end_of(EARLY.format(before=before, rounds=10**9)) == (75, [message])


def test_within_training_the_stop_signal_has_the_word() -> None:
    script = "from training import signals\nsignals.leave_early()\n" + BUSY
    words = {"before": "stop.forbid_end()", "after": "pass", "rounds": 2 * 10**6, "patience": 0.2}
    assert end_of(script.format(**words)) == (0, ["ended, received True"])

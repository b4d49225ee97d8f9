"""Each way in which a process ends has its own exit code. tests/entry has whole runs."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import exits

ROOT = Path(__file__).parent.parent.parent
CODES = {"FINISHED": 0, "FAULT": 1, "REFUSED": 2, "PEER_LOST": 3, "STOPPED": 75, "INTERRUPTED": 130}
BODY = """
import time
from common.terminal import command
from training import exits
from training.signals import StopSignal, leave_early
leave_early()
with command("train.py"), StopSignal() as stop:
    stop.forbid_end()
    print("busy", flush=True)
    {body}
"""
WAIT = """
    while not stop.received:
        time.sleep(0.01)
    print("saving", flush=True)
"""


@pytest.mark.parametrize(
    ("body", "signals", "code", "lines"),
    [
        ("pass", [], 0, 0),
        ("1 + None", [], 1, None),
        ("raise ValueError('such as no records')", [], 2, 1),
        ("raise OSError(28, 'No space left on device')", [], 2, 1),
        ("from training.devices.peers import _end; _end(0, 'gone')", [], 3, 1),
        (f"{WAIT}    raise exits.StoppedError", [signal.SIGUSR1], 75, 0),
        (f"{WAIT}    raise exits.StoppedError", [signal.SIGINT], 75, 0),
        (f"{WAIT}    time.sleep(30)", [signal.SIGINT, signal.SIGINT], 130, 0),
    ],
)
def test_each_end_has_its_code(
    body: str, signals: list[signal.Signals], code: int, lines: int | None
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BODY.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    for number in signals:
        process.stdout.readline()  # busy, and then saving
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert lines is None or len(error.splitlines()) == lines, error


def test_the_page_about_scale_has_these_codes() -> None:
    assert {name: getattr(exits, name) for name in CODES} == CODES
    page = (ROOT / "docs" / "scale.md").read_text()
    table = page.partition("| exit code |")[2].partition("\n\n")[0]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert codes == [*CODES.values()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(), 2),
        (FileExistsError(), 2),
        (KeyboardInterrupt(), 130),
        (TypeError(), 1),
        (exits.StoppedError(), 75),
    ],
)
def test_an_error_keeps_its_exit_code(error: BaseException, status: int) -> None:
    assert exits.status_of(error) == status

"""Exit codes of a run, and how a process ends with one.

This file imports nothing slow, because training/signals.py needs it before slow imports.
"""

import contextlib
import os
import signal
import sys

from common import terminal

FINISHED = 0
"""The last update was made and saved."""
FAULT = 1
"""A bug, with its traceback."""
REFUSED = terminal.MISTAKE
"""A wrong input, a full disk or too little memory, with one line on stderr."""
PEER_LOST = 3
"""Another process of the run died; the same command on every machine resumes."""
STOPPED = 75
"""Stopped by a signal or a time limit: the state is saved, and the same command resumes.
sysexits.h has this number for a failure that another try mends."""
INTERRUPTED = terminal.INTERRUPTED
"""A second Ctrl-C: nothing was saved since the last checkpoint."""

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(signal, name)  # Windows has only SIGTERM
)
"""Signals that ask a run to save and end: a scheduler's, SLURM's --signal, a closed terminal's."""


class StoppedError(SystemExit):
    """A run was stopped, and its state is saved. The process exits with STOPPED."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


def status_of(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAULT
    if isinstance(error, Exception):
        return FAULT if terminal.explain(error) is None else REFUSED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAULT


def end_now(status: int) -> None:
    """End this process without waiting for threads or other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

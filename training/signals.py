"""Signals that stop a run, and Ctrl-C: the state is saved, and the exit code is STOPPED.

Python's signal handlers run only when C++ returns, which may take half an hour during a
compilation. So a thread waits for signals, too: if the main thread does not react, it saves the
state and ends the process.

This file imports nothing slow, because it is imported first.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from training import exits
from training.spans import parse_duration

STARTED = time.monotonic()
"""The time when this file was imported; training.stop_after counts from it."""
PATIENCE = 5.0  # seconds for the main thread to come back


def leave_early() -> None:
    """End this process at once with exit code STOPPED at any of the STOP_SIGNALS, until a
    StopSignal is entered. Entry points call it before their slow imports, when there is nothing to
    save."""
    here, there = socket.socketpair()
    here.setblocking(False)

    def watch() -> None:
        while there.recv(1)[0] not in exits.STOP_SIGNALS:
            pass
        print("asked to stop outside of training; the same command resumes from here")
        exits.end_now(exits.STOPPED)

    threading.Thread(target=watch, daemon=True).start()
    signal.set_wakeup_fd(here.detach(), warn_on_full_buffer=False)
    for number in _heeded():
        signal.signal(number, lambda number, frame: None)


def _heeded() -> list[signal.Signals]:
    """The STOP_SIGNALS; without SIGHUP if this process ignores it, as under nohup."""
    return [
        number
        for number in exits.STOP_SIGNALS
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]


class Stop:
    """A stop that nobody requests. The loop asks it between updates."""

    def is_granted(self) -> bool:
        """True if the run must stop now; called once per update, in every process."""
        return False

    def allow_end(self, save: Callable[[], None]) -> None:
        """Allow the end of the process after `save()`, without the main thread."""

    def forbid_end(self) -> None:
        """Forbid that end, because the main thread uses the state."""

    @contextlib.contextmanager
    def end_allowed(self, save: Callable[[], None]) -> Iterator[None]:
        """A context in which the process may end after `save()`, without the main thread."""
        self.allow_end(save)
        try:
            yield
        finally:
            self.forbid_end()


NO_STOP = Stop()


class StopSignal(Stop):
    """A context in which STOP_SIGNALS and Ctrl-C request a stop, which the loop grants after the
    current update. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        """Before `forbid_end` there is no state to save, so the thread may end the process."""
        self.received = False
        self.leave: Callable[[], None] = lambda: None
        """Called last in a process that the thread ends; it must not need the main thread."""
        self.agree: Callable[[bool], bool] = lambda received: received
        """(True if this process got a signal) → True if the run stops, the same in all processes.
        """
        self._save: Callable[[], None] | None = lambda: None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StopSignal":
        self._old_fd = signal.set_wakeup_fd(self._here.fileno(), warn_on_full_buffer=False)
        for number in (*_heeded(), signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self.forbid_end()
        if self._timer is not None:
            self._timer.cancel()
        self._here.close()  # the thread reads the end
        self._thread.join()
        self._there.close()

    def by(self, duration: str) -> None:
        """Request a stop when the process has run for `duration` (HH:MM; "" = never). Raises
        ValueError for another text."""
        if not duration:
            return

        def ask() -> None:
            if self._here.fileno() >= 0:
                print(f"training.stop_after {duration} is over", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)

        left = STARTED + parse_duration(duration) - time.monotonic()
        self._timer = threading.Timer(max(left, 0.0), ask)
        self._timer.daemon = True
        self._timer.start()

    def is_granted(self) -> bool:
        return self.agree(self.received)

    def allow_end(self, save: Callable[[], None]) -> None:
        """Allow the thread to end the process after `save()`."""
        with self._lock:
            self._save = save

    def forbid_end(self) -> None:
        """Forbid the thread to end the process, because the main thread uses the state. If the
        thread is saving, this call waits and does not return."""
        with self._lock:
            self._save = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _watch(self) -> None:
        while number := self._there.recv(1):
            if number[0] in exits.STOP_SIGNALS:
                self._wait_and_end()

    def _wait_and_end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._here.fileno() >= 0:
            time.sleep(0.1)
            with self._lock:
                if self._save is not None and time.monotonic() > deadline:
                    self._end(self._save)

    def _end(self, save: Callable[[], None]) -> None:
        try:
            save()
        except Exception as error:
            print(f"what was done since the last checkpoint is lost: {error}", file=sys.stderr)
        try:
            self.leave()
        finally:
            exits.end_now(exits.STOPPED)

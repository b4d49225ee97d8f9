"""Processes of a run watch each other: when one dies, the others end at once and report it.

jax.distributed detects it only after HEARTBEAT_SECONDS; meanwhile an update blocks. Here each
process holds a connection to process 0. The operating system closes it when either process dies. At
the start of a run, and behind a firewall, there is no such connection. Then the relay to jax's
coordinator detects the death of process 0, and jax's heartbeat the death of others.

Threads that end this process call no function of jax: while jax waits for the devices of a process
that died, it holds the lock that jax.process_index needs.
"""

import atexit
import contextlib
import hmac
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax

from training import exits
from training.devices.processes import from_process_0
from training.devices.relay import in_background

CONNECT_SECONDS = 10
GRACE_SECONDS = 1.0
"""Seconds in which this process may end with the same error as the other one, such as damaged
checkpoints, with its own line and exit code."""
LOST_SECONDS = 2  # for the connections between processes to say so
STOP_SECONDS = 5  # less than HEARTBEAT_SECONDS, when jax loses the stopped process
_GOODBYE, _STOP = b".", b"!"
_lines: list[socket.socket] = []
_is_over = threading.Event()
_status = exits.FINISHED  # the exit code, once _is_over is set
_last_word = threading.Lock()  # several threads may notice a death


@contextlib.contextmanager
def watch_peers() -> Iterator[None]:
    """A context that ends this process with a line when another process of the run dies or ends
    with an error. Collective: every process must enter it."""
    if jax.process_count() == 1:
        yield
        return
    number = jax.process_index()
    try:
        with _open_lines(number):
            yield
    except exits.StoppedError:  # all stop at one step
        announce_end(exits.STOPPED)
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not _is_own(error):
            _end(number, str(error).strip().splitlines()[0][:200])
        status = exits.status_of(error)
        _hang_up(status)
        atexit.register(exits.end_now, status)  # jax would wait for the others
        raise
    announce_end()


def end_after_loss(number: int, reason: str) -> int:
    """End this process, `number`, with one line, because another process died. If this process is
    ending already, return its exit code instead."""
    if not _is_over.wait(LOST_SECONDS):
        _end(number, reason)
    return _status


def _is_own(error: Exception) -> bool:
    """True for an error of this process, such as too little memory; False for errors that another
    process's death causes."""
    return str(error).lstrip().startswith("RESOURCE_EXHAUSTED")


def announce_end(status: int = exits.FINISHED) -> None:
    """Send to the other processes that this one ends without an error, with exit code `status`."""
    _say(_GOODBYE, status)


def stop_all() -> None:
    """Stop the other processes, too: this one was asked to stop, and ends before it can agree with
    them on a step."""
    _say(_STOP, exits.STOPPED)


def _say(word: bytes, status: int) -> None:
    _begin_end(status)
    for line in _lines:
        with contextlib.suppress(OSError):
            line.sendall(word)


def _hang_up(status: int) -> None:
    """Close the connections, because this process ends with an error. Then the others do not wait
    for it."""
    _begin_end(status)
    for line in _lines:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def _begin_end(status: int) -> None:
    """From now on, this process is ending by itself with exit code `status`."""
    global _status
    _status = status
    _is_over.set()


@contextlib.contextmanager
def _open_lines(number: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        server = None if number else stack.enter_context(socket.create_server(("", 0)))
        port = 0 if server is None else server.getsockname()[1]
        host, port, word = from_process_0(
            lambda: (socket.gethostname(), port, secrets.token_hex(16))
        )
        if server is not None:
            in_background(_accept, server, word, jax.process_count() - 1)
        else:
            with contextlib.suppress(OSError):
                line = socket.create_connection((host, port), CONNECT_SECONDS)
                line.sendall(word.encode())
                _watch(line, number)
        yield


def _accept(server: socket.socket, word: str, others: int) -> None:
    """Accept, in process 0, the connections of the others, which send the secret `word`."""
    for _ in range(others):
        try:
            line, _ = server.accept()
            line.settimeout(CONNECT_SECONDS)
            received = line.recv(len(word), socket.MSG_WAITALL)
        except OSError:  # the run is over
            return
        if hmac.compare_digest(received, word.encode()):
            _watch(line, 0)


def _watch(line: socket.socket, number: int) -> None:
    line.settimeout(None)
    _lines.append(line)
    in_background(_listen, line, number)


def _listen(line: socket.socket, number: int) -> None:
    try:
        received = line.recv(1)
    except OSError:
        received = b""
    if received == _STOP:
        _stop_too()
    elif received != _GOODBYE and not _is_over.wait(GRACE_SECONDS):
        _end(number, "its connection broke off")


def _stop_too() -> None:
    """Stop as if this process had got the signal. If it blocks on the stopped process, it ends
    here."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    if not _is_over.is_set():
        print("another process of this run was asked to stop", file=sys.stderr, flush=True)
        stop_all()  # else processes that are connected only to this one would miss it
        os._exit(exits.STOPPED)


def _end(number: int, reason: str) -> None:
    _last_word.acquire()
    print(
        f"process {number}: another process of this run died ({reason}); the same "
        "command on every machine resumes from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(exits.PEER_LOST)

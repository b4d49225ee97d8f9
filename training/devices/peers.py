"""Processes of a run watch each other: when one dies, the others end at once and report it.

jax.distributed detects it only after HEARTBEAT_SECONDS, and then aborts with a stack trace;
meanwhile an update blocks. Here each process holds a connection to process 0. The operating system
closes it when either process dies. At the start of a run, and behind a firewall, there is no such
connection. Then the relay to jax's coordinator detects the death of process 0, and jax the death of
others.
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
from collections.abc import Callable, Iterator

import jax

from training import exits
from training.devices.processes import from_first

CONNECT_SECONDS = 10
GRACE_SECONDS = 1.0
"""Seconds in which this process may end with the same error as the other one, such as damaged
checkpoints, with its own line and exit code."""
LOST_SECONDS = 2  # for the connections between processes to say so; jax aborts soon after
STOP_SECONDS = 5  # less than HEARTBEAT_SECONDS, when jax aborts
_GOODBYE, _STOP = b".", b"!"
_lines: list[socket.socket] = []
_is_over = threading.Event()


@contextlib.contextmanager
def watch_peers() -> Iterator[None]:
    """A context that ends this process with a line when another process of the run dies or ends
    with an error. Collective: every process must enter it."""
    if jax.process_count() == 1:
        yield
        return
    with _open_lines():
        try:
            yield
        except exits.StoppedError:  # all stop at one step
            say_goodbye()
            raise
        except BaseException as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and not _is_own(error):
                _end(str(error).strip().splitlines()[0][:200])
            _hang_up()
            # jax would wait for the others, and abort
            atexit.register(exits.end_now, exits.status_of(error))
            raise
        say_goodbye()


def lose_first() -> None:
    """End this process because process 0 died, unless it is ending by itself."""
    if not _is_over.wait(LOST_SECONDS):
        _end("process 0 does not answer")


def _is_own(error: Exception) -> bool:
    """True for an error of this process, such as too little memory; False for errors that another
    process's death causes."""
    return str(error).lstrip().startswith("RESOURCE_EXHAUSTED")


def say_goodbye() -> None:
    """Tell the other processes that this one ends without an error."""
    _say(_GOODBYE)


def stop_all() -> None:
    """Stop the other processes, too: this one was asked to stop, and ends before it can agree with
    them on a step."""
    _say(_STOP)


def _say(word: bytes) -> None:
    _is_over.set()
    for line in _lines:
        with contextlib.suppress(OSError):
            line.sendall(word)


def _hang_up() -> None:
    """Close the connections, because this process ends with an error. Then the others do not wait
    for it."""
    _is_over.set()
    for line in _lines:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _open_lines() -> Iterator[None]:
    is_first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", 0))) if is_first else None
        port = 0 if server is None else server.getsockname()[1]
        host, port, word = from_first(lambda: [socket.gethostname(), port, secrets.token_hex(16)])
        if server is not None:
            _in_background(_accept, server, word)
        else:
            with contextlib.suppress(OSError):
                line = socket.create_connection((host, port), CONNECT_SECONDS)
                line.sendall(word.encode())
                _watch(line)
        yield


def _accept(server: socket.socket, word: str) -> None:
    """Accept, in process 0, the connections of the others, which send the secret `word`."""
    for _ in range(jax.process_count() - 1):
        try:
            line, _ = server.accept()
            line.settimeout(CONNECT_SECONDS)
            received = line.recv(len(word), socket.MSG_WAITALL)
        except OSError:  # the run is over
            return
        if hmac.compare_digest(received, word.encode()):
            _watch(line)


def _watch(line: socket.socket) -> None:
    line.settimeout(None)
    _lines.append(line)
    _in_background(_listen, line)


def _listen(line: socket.socket) -> None:
    try:
        said = line.recv(1)
    except OSError:
        said = b""
    if said == _STOP:
        _stop_too()
    elif said != _GOODBYE and not _is_over.wait(GRACE_SECONDS):
        _end("its connection broke off")


def _stop_too() -> None:
    """Stop as if this process had got the signal. If it blocks on the stopped process, it ends
    here."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    if not _is_over.is_set():
        print("another process of this run was asked to stop", file=sys.stderr, flush=True)
        stop_all()  # or those that hear this process alone would miss it
        os._exit(exits.STOPPED)


def _in_background(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _end(reason: str) -> None:
    print(
        f"process {jax.process_index()}: another process of this run died ({reason}); the same "
        "command on every machine resumes from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(exits.PEER_LOST)

"""A relay in each process between jax and its coordinator, which is in process 0.

When jax's connection to the coordinator closes, jax logs it and aborts the process at once. The
relay keeps jax's connection open. Then training/devices/peers.py or the relay ends the process with
a line. If jax loses another process in another way, such as by its heartbeat, the same line ends
the process in place of jax's abort.
"""

import contextlib
import importlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from training import exits
from training.devices.aborts import replace_abort

CONNECT = "get_distributed_runtime_client"
"""Name of jax's function (the coordinator's HOST:PORT, process number, …) → client."""
CALLBACK = "missed_heartbeat_callback"
NO_PROXY = "no_grpc_proxy"
CONNECT_SECONDS = 20
CHUNK = 1 << 16
ENDING_SECONDS = 2  # for a process that ends by itself; its wait for jax may never end
Lost = Callable[[int, str], int]
"""(number of this process, reason) → the exit code with which this process is ending by itself. If
it is not, the call ends it with a line, because another process died."""
_open: list[socket.socket] = []  # or Python would close them


@contextlib.contextmanager
def relayed(lost: Lost) -> Iterator[None]:
    """A context in which jax connects through a relay. The relay calls `lost` when the coordinator
    dies, and jax when it loses another process. A jax version that connects in another way is not
    relayed."""
    try:
        library: Any = importlib.import_module("jax._src.lib")._jax
        connect = getattr(library, CONNECT)
    except (ImportError, AttributeError):
        yield
        return

    def connect_through(address: str, number: int, *words: object, **more: object) -> Any:
        def end() -> None:
            status = lost(number, "it sends no heartbeat")
            time.sleep(ENDING_SECONDS)
            exits.end_now(status)

        if (callback := replace_abort(end)) is not None:
            more = {**more, CALLBACK: callback}
        if number == 0:
            return connect(address, number, *words, **more)
        with _without_proxy():
            relay = open_relay(address, partial(lost, number, "process 0 does not answer"))
            return connect(relay, number, *words, **more)

    setattr(library, CONNECT, connect_through)
    try:
        yield
    finally:
        setattr(library, CONNECT, connect)


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """A context in which gRPC uses no HTTP proxy for this machine."""
    before = os.environ.get(NO_PROXY)
    others = os.environ.get("no_proxy", "") if before is None else before
    os.environ[NO_PROXY] = f"{others},127.0.0.1".lstrip(",")
    try:
        yield
    finally:
        del os.environ[NO_PROXY]
        if before is not None:
            os.environ[NO_PROXY] = before


def open_relay(address: str, lost: Callable[[], object]) -> str:
    """The HOST:PORT of a new relay to an address."""
    server = socket.create_server(("127.0.0.1", 0))
    _open.append(server)
    in_background(_accept, server, address, lost)
    return f"127.0.0.1:{server.getsockname()[1]}"


def _accept(server: socket.socket, address: str, lost: Callable[[], object]) -> None:
    while True:
        near, _ = server.accept()
        _open.append(near)
        in_background(_join, near, address, lost)


def _join(near: socket.socket, address: str, lost: Callable[[], object]) -> None:
    """Forward bytes in both directions. If jax closes its end, the other end is closed, but not the
    other way round."""
    far = _connect(address)
    if far is None:
        near.close()  # jax tries again
        return
    for line in (near, far):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    is_over = threading.Event()
    in_background(_send, near, far, is_over)
    with contextlib.suppress(OSError):
        while data := far.recv(CHUNK):
            near.sendall(data)
    if not is_over.wait(1):
        lost()


def _send(near: socket.socket, far: socket.socket, is_over: threading.Event) -> None:
    while data := _read(near):
        try:
            far.sendall(data)
        except OSError:  # whoever reads from it notices
            return
    is_over.set()
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)


def _read(line: socket.socket) -> bytes:
    try:
        return line.recv(CHUNK)
    except OSError:
        return b""


def _connect(address: str) -> socket.socket | None:
    """A connection to the other process, once it listens; None after a timeout."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < deadline:
        try:
            far = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
        except OSError:
            time.sleep(0.2)
            continue
        far.settimeout(None)
        return far
    return None


def in_background(target: Callable[..., None], *arguments: object) -> None:
    """Call the function in a thread that does not keep the process alive."""
    threading.Thread(target=target, args=arguments, daemon=True).start()

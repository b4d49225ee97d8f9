"""A relay in each process between jax and its coordinator, which is in process 0.

When jax's connection to the coordinator closes, jax aborts the process at once with a stack trace,
before a line can be printed. The relay keeps jax's connection open. Then training/devices/peers.py
or the relay ends the process with a line.
"""

import contextlib
import importlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

CONNECT = "get_distributed_runtime_client"
"""Name of jax's function (the coordinator's HOST:PORT, process number, …) → client."""
NO_PROXY = "no_grpc_proxy"
CONNECT_SECONDS = 20
CHUNK = 1 << 16
_open: list[socket.socket] = []  # or Python would close them


@contextlib.contextmanager
def relayed(lost: Callable[[], None]) -> Iterator[None]:
    """A context in which jax connects through a relay, which calls `lost` when the coordinator
    dies. A jax version that connects in another way is not relayed."""
    try:
        library: Any = importlib.import_module("jax._src.lib")._jax
        connect = getattr(library, CONNECT)
    except (ImportError, AttributeError):
        yield
        return

    def connect_through(address: str, number: int, *words: object, **more: Any) -> Any:
        if number == 0:
            return connect(address, number, *words, **more)
        with _without_proxy():
            return connect(open_relay(address, lost), number, *words, **more)

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


def open_relay(address: str, lost: Callable[[], None]) -> str:
    """The HOST:PORT of a new relay to an address."""
    server = socket.create_server(("127.0.0.1", 0))
    _open.append(server)
    _in_background(_accept, server, address, lost)
    return f"127.0.0.1:{server.getsockname()[1]}"


def _accept(server: socket.socket, address: str, lost: Callable[[], None]) -> None:
    while True:
        near, _ = server.accept()
        _open.append(near)
        _in_background(_join, near, address, lost)


def _join(near: socket.socket, address: str, lost: Callable[[], None]) -> None:
    """Forward bytes in both directions. If jax closes its end, the other end is closed, but not the
    other way round."""
    far = _connect(address)
    if far is None:
        near.close()  # jax tries again
        return
    for line in (near, far):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    is_over = threading.Event()
    _in_background(_send, near, far, is_over)
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


def _in_background(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()

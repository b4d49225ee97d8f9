"""The relay to jax's coordinator. tests/drills has whole runs in which process 0 dies."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entry.test_processes import free_port
from training.devices import relay

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """A coordinator's listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def meet(far: socket.socket, lost: threading.Event) -> tuple[socket.socket, socket.socket]:
    """Both ends of a relayed connection: jax's and the coordinator's."""
    address = relay.open_relay(f"localhost:{far.getsockname()[1]}", lost.set)
    host, _, port = address.rpartition(":")
    near = socket.create_connection((host, int(port)), 10)
    return near, far.accept()[0]


def test_both_ends_hear_each_other(far: socket.socket) -> None:
    near, there = meet(far, threading.Event())
    with near, there:
        near.sendall(b"a" * 200_000)
        assert there.recv(200_000, socket.MSG_WAITALL) == b"a" * 200_000
        there.sendall(b"answer")
        assert near.recv(6, socket.MSG_WAITALL) == b"answer"


def test_a_coordinator_that_is_gone_is_reported_and_kept_from_jax(far: socket.socket) -> None:
    lost = threading.Event()
    near, there = meet(far, lost)
    with near:
        there.close()
        assert lost.wait(10)
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):  # jax's end is still open
            near.recv(1)


def test_an_end_of_ours_is_no_loss(far: socket.socket) -> None:
    lost = threading.Event()
    near, there = meet(far, lost)
    with there:
        near.close()
        there.settimeout(10)
        assert there.recv(1) == b""
        assert not lost.wait(2)


SCRIPT = """
    import os, sys, time
    import jax
    from training.config import ParallelConfig
    from training.devices import peers, processes

    number = int(sys.argv[2])
    processes.join(ParallelConfig(coordinator=sys.argv[1], num_processes=2, process_id=number),
        peers.lose_first)
    if number == 0:
        os.kill(os.getpid(), 9)
    time.sleep(60)
"""


@pytest.mark.slow
def test_jax_does_not_abort_when_process_0_dies() -> None:
    """It may die before or after the processes are connected to each other. Marked slow: on a
    loaded machine jax's heartbeat can fail before the relay has ended the process."""
    words = [sys.executable, "-c", textwrap.dedent(SCRIPT), f"localhost:{free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [*words, str(i)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    try:
        _, said = both[1].communicate(timeout=60)
    finally:
        for one in both:
            one.kill()
            one.communicate()
    assert [one.returncode for one in both] == [-signal.SIGKILL, 3], said
    assert said.splitlines() == [
        "process 1: another process of this run died (process 0 does not answer); the same "
        "command on every machine resumes from the last checkpoint"
    ]


def test_a_proxy_is_not_asked_for_the_way_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def connect(address: str, number: int) -> None:
        seen.append((address.partition(":")[0], os.environ.get(relay.NO_PROXY)))

    library = importlib.import_module("jax._src.lib")._jax
    monkeypatch.setattr(library, relay.CONNECT, connect)
    monkeypatch.setenv("no_proxy", ".cluster")
    monkeypatch.delenv(relay.NO_PROXY, raising=False)
    with relay.relayed(lambda: None):
        for number in range(2):
            getattr(library, relay.CONNECT)("host0:1", number)
    assert seen == [("host0", None), ("127.0.0.1", ".cluster,127.0.0.1")]
    assert relay.NO_PROXY not in os.environ
    assert getattr(library, relay.CONNECT) is connect

"""The relay to jax's coordinator, and the end of a process that lost another one. tests/drills has
whole runs in which processes die."""

import importlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
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
    import os, signal, sys, time
    import jax
    from training.config import ParallelConfig
    from training.devices import peers, processes

    number, victim, end, moment = int(sys.argv[2]), *sys.argv[3:]
    if end == "SIGSTOP":
        processes.HEARTBEAT_SECONDS = 6

    def meet_end(*_):
        os.kill(os.getpid(), getattr(signal, end))

    if number == int(victim) and moment == "before":
        jax.process_index = meet_end
    processes.join(ParallelConfig(coordinator=sys.argv[1], num_processes=2, process_id=number),
        peers.end_after_loss)
    if number == int(victim):
        meet_end()
    time.sleep(300)
"""


END = "process {}: another process of this run died ({}); {}"
AGAIN = "the same command on every machine resumes from the last checkpoint"
LOSSES = {
    "process 0 dies": (0, "SIGKILL", "after", "process 0 does not answer"),
    # The other one waits for the devices of process 0, and holds a lock of jax.
    "process 0 dies early": (0, "SIGKILL", "before", "process 0 does not answer"),
    # No connection closes, as if the power was lost: only jax's heartbeat notices it.
    "process 0 is silent": (0, "SIGSTOP", "after", "it sends no heartbeat"),
    "process 1 is silent": (1, "SIGSTOP", "after", "it sends no heartbeat"),
}
RARE = [name for name in LOSSES if name != "process 0 dies"]


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def ends_of(names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of the process that lost the other one, before they have
    connections of their own; all losses at the same time, because they wait for most of it."""
    pairs = {}
    for name in names:
        victim, end, moment, _ = LOSSES[name]
        words = [sys.executable, "-c", textwrap.dedent(SCRIPT), f"localhost:{free_port()}"]
        pairs[name] = [start(*words, str(i), str(victim), end, moment) for i in range(2)]
    found = {}
    try:
        for name in names:
            other = pairs[name][1 - LOSSES[name][0]]
            _, errors = other.communicate(timeout=300)
            found[name] = (other.returncode, errors)
    finally:
        for process in [process for pair in pairs.values() for process in pair]:
            process.kill()
            process.communicate()
    assert all(pairs[name][LOSSES[name][0]].returncode == -9 for name in names)
    return found


@pytest.fixture(scope="module")
def rare_ends() -> dict[str, tuple[int, str]]:
    return ends_of(RARE)


def test_a_process_that_lost_another_one_ends_with_a_line_and_not_by_jax() -> None:
    check_end("process 0 dies", *ends_of(["process 0 dies"])["process 0 dies"])


# test_peers.py has the silence, and the relay above the death, without processes.
@pytest.mark.slow
@pytest.mark.parametrize("loss", RARE)
def test_so_does_one_that_lost_it_early_or_without_a_word(
    rare_ends: dict[str, tuple[int, str]], loss: str
) -> None:
    check_end(loss, *rare_ends[loss])


def check_end(loss: str, status: int, errors: str) -> None:
    victim, *_, reason = LOSSES[loss]
    assert status == 3, errors
    *log, line = errors.splitlines()
    assert line == END.format(1 - victim, reason, AGAIN)
    # jax's coordinator, which is in process 0, logs the silence of another process.
    assert (not log) or victim == 1, errors
    assert "stack trace" not in errors


ALONE = """
    import sys
    from training.config import ParallelConfig
    from training.devices import peers, processes

    processes.MEETING_SECONDS = 1
    try:
        processes.join(ParallelConfig(coordinator=sys.argv[1], num_processes=2, process_id=1),
            peers.end_after_loss)
    except ValueError as error:
        sys.exit(str(error))
"""


def test_processes_that_do_not_meet_are_refused_and_not_aborted_by_jax() -> None:
    address = f"localhost:{free_port()}"
    alone = start(sys.executable, "-c", textwrap.dedent(ALONE), address)
    _, errors = alone.communicate(timeout=60)
    assert alone.returncode == 2, errors
    assert errors.startswith(
        "the processes of this run could not connect: "
        f"not all 2 of them reached {address} within 1 s"
    )
    assert errors.count("\n") == 1


def test_a_proxy_is_not_asked_for_the_way_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def connect(address: str, number: int, **_: object) -> None:
        seen.append((address.partition(":")[0], os.environ.get(relay.NO_PROXY)))

    library = importlib.import_module("jax._src.lib")._jax
    monkeypatch.setattr(library, relay.CONNECT, connect)
    monkeypatch.setenv("no_proxy", ".cluster")
    monkeypatch.delenv(relay.NO_PROXY, raising=False)
    with relay.relayed(lambda number, reason: 0):
        for number in range(2):
            getattr(library, relay.CONNECT)("host0:1", number)
    assert seen == [("host0", None), ("127.0.0.1", ".cluster,127.0.0.1")]
    assert relay.NO_PROXY not in os.environ
    assert getattr(library, relay.CONNECT) is connect

"""How a process reacts to another one's messages. tests/entry and tests/drills have whole runs."""

import contextlib
import signal
import socket
import threading

import jax
import pytest

from training import exits
from training.devices import peers


class EndedError(Exception):
    """Raised in place of ending this process."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records the signals that the process sends to itself, and its exit status."""
    found: list[object] = []

    def end(status: int) -> None:
        found.append(status)
        raise EndedError

    monkeypatch.setattr(peers.os, "_exit", end)
    monkeypatch.setattr(peers.os, "kill", lambda pid, number: found.append(number))
    monkeypatch.setattr(peers, "STOP_SECONDS", 0)
    monkeypatch.setattr(peers, "GRACE_SECONDS", 0)
    monkeypatch.setattr(peers, "_last_word", threading.Lock())
    peers._is_over.clear()
    return found


def hear(word: bytes) -> None:
    """Listen to a connection on which another process sends this word and closes."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(word)
        there.shutdown(socket.SHUT_WR)
        with contextlib.suppress(EndedError):
            peers._listen(here, 7)


def test_who_says_goodbye_is_not_missed(done: list[object]) -> None:
    hear(peers._GOODBYE)
    assert done == []


def test_a_line_that_breaks_off_ends_this_process_in_a_line(
    done: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    hear(b"")
    assert done == [exits.PEER_LOST]
    output = capfd.readouterr().err
    assert "process 7: another process of this run died (its connection broke off)" in output
    assert output.count("\n") == 1


def test_a_stop_is_passed_on_and_not_waited_for_in_vain(done: list[object]) -> None:
    hear(peers._STOP)
    assert done == [signal.SIGTERM, exits.STOPPED]


def test_a_stop_is_reported_to_the_others_before_this_process_leaves(
    done: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = socket.socketpair()
    with here, other:
        monkeypatch.setattr(peers, "_lines", [here])
        try:
            hear(peers._STOP)
        finally:
            peers._is_over.clear()
        other.settimeout(1)
        assert other.recv(1) == peers._STOP
    assert done == [signal.SIGTERM, exits.STOPPED]


@pytest.mark.parametrize(
    ("text", "is_own"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes", True),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer", False),
    ],
)
def test_memory_that_runs_out_here_is_no_lost_process(text: str, is_own: bool) -> None:
    assert peers._is_own(jax.errors.JaxRuntimeError(text)) == is_own


def test_after_its_own_end_a_process_minds_nothing(done: list[object]) -> None:
    peers.stop_all()
    try:
        for word in (b"", peers._STOP):
            hear(word)
    finally:
        peers._is_over.clear()
    assert done == [signal.SIGTERM]


def test_an_error_that_all_have_ends_each_by_its_own(
    done: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GRACE_SECONDS", 5)
    threading.Timer(0.05, peers._is_over.set).start()  # as its own error would
    try:
        hear(b"")
    finally:
        peers._is_over.clear()
    assert done == []


def test_who_is_ending_by_itself_is_not_ended_by_a_loss(done: list[object]) -> None:
    peers.announce_end(exits.STOPPED)
    try:
        assert peers.end_after_loss(1, "it sends no heartbeat") == exits.STOPPED
    finally:
        peers._is_over.clear()
    assert done == []


def test_a_death_before_the_processes_are_connected_is_a_line_too(
    done: list[object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def meet(make: object) -> None:
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo broadcast failed: closed by peer\nmore")

    monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers.jax, "process_index", lambda: 1)
    monkeypatch.setattr(peers, "from_process_0", meet)
    with pytest.raises(EndedError), peers.watch_peers():
        pass
    assert done == [exits.PEER_LOST]
    assert "(UNKNOWN: Gloo broadcast failed: closed by peer)" in capfd.readouterr().err

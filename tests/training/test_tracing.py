"""A trace begins and ends at the given updates, and consists of jax's profiler files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from training.config import TrainingConfig
from training.reports import tracing
from training.reports.tracing import Trace


def calls(monkeypatch: pytest.MonkeyPatch, text: str, first: int, last: int) -> list[object]:
    """The profiler's calls in a loop from `first` to `last` finished updates."""
    steps: list[object] = []
    now = [first]
    monkeypatch.setattr(tracing.jax.profiler, "start_trace", lambda folder: steps.append(now[0]))
    monkeypatch.setattr(tracing.jax.profiler, "stop_trace", lambda: steps.append(-now[0]))
    with Trace(text, Path("run")).around(first) as hook:
        for n in range(first + 1, last + 1):
            now[0] = n
            if hook.is_due(n, is_last=n == last):
                hook.action(n, None)  # type: ignore[arg-type]
    return steps


@pytest.mark.parametrize(
    ("text", "first", "last", "expected"),
    [
        ("", 0, 30, []),
        ("10:20", 0, 30, [10, -20]),
        ("0:2", 0, 30, [0, -2]),
        ("10:20", 15, 30, [15, -20]),  # resumed within
        ("10:20", 20, 30, []),
        ("10:20", 0, 15, [10, -15]),  # stopped within
        ("10:20", 0, 20, [10, -20]),
    ],
)
def test_when_it_traces(
    monkeypatch: pytest.MonkeyPatch, text: str, first: int, last: int, expected: list[int]
) -> None:
    assert calls(monkeypatch, text, first, last) == expected


def test_there_is_a_trace(tmp_path: Path) -> None:
    with Trace("0:5", tmp_path).around(0):
        jax.block_until_ready(jnp.ones(3) + 1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["5", "5:5", "a:b", "-1:4"])
def test_a_range_has_two_ends(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range a:b with a < b"):
        TrainingConfig(profile=text)

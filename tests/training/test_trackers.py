"""Whatever wandb does, metrics.jsonl has every row and training goes on."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from training import metrics
from training.config import TrackerConfig, TrainingConfig
from training.trackers import Tracker


class BrokenRun:
    """Logs three times, then fails at everything."""

    def __init__(self) -> None:
        self.logged: list[int] = []
        self.closed = False

    def log(self, row: dict[str, Any], step: int) -> None:
        if len(self.logged) == 3:
            raise ConnectionError("the network is gone")
        self.logged.append(step)

    def finish(self) -> None:
        self.closed = True
        raise TimeoutError("it never answered")


class ClosingRun(BrokenRun):
    """Logs everything, and fails only at the end."""

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append(step)


def fake_wandb(monkeypatch: pytest.MonkeyPatch, run: BrokenRun | None) -> list[str]:
    """A wandb whose init gives `run`, or raises; returns the modes in which it was asked."""
    modes: list[str] = []

    def init(**settings: Any) -> BrokenRun:
        modes.append(settings["mode"])
        if run is None:
            raise RuntimeError("no account")
        return run

    fake = types.ModuleType("wandb")
    fake.__dict__.update(init=init, Settings=lambda **_: None, Image=lambda path: path)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return modes


def train(folder: Path, mode: str, broken_at: int = 0) -> list[int]:
    """Six updates with a grid after the fifth; the steps that metrics.jsonl has."""
    training = TrainingConfig(steps=6, batch_size=4, log_every=1)
    tracker_config = TrackerConfig(wandb=mode)  # type: ignore[arg-type]
    with Tracker(tracker_config, training, folder, 0, {"seed": 0}) as tracker:
        for step in range(1, 7):
            if step == broken_at:
                raise FloatingPointError("the loss is nan")
            tracker.record(step, {"time/step_ms": 1.0, "train/loss": 2.0})
            if step == 5:
                tracker.image(step, "grid", folder / "grid.png")
            tracker.sync()
    return [row["step"] for row in metrics.read(folder / "metrics.jsonl")]


EVERY = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("mode", "tried"), [("online", ["online", "offline"]), ("offline", ["offline"]), ("off", [])]
)
def test_a_mirror_that_does_not_start_is_gone_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, tried: list[str]
) -> None:
    modes = fake_wandb(monkeypatch, None)
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("warnings.warn", lambda message, **_: told.append(message))
        assert train(tmp_path, mode) == EVERY
    assert modes == tried
    assert [message.split()[1] for message in told] == tried
    assert all("no account" in message for message in told)


def test_a_mirror_that_fails_on_the_way_is_let_go_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = BrokenRun()
    fake_wandb(monkeypatch, run)
    with pytest.warns(UserWarning, match="the network is gone") as told:
        assert train(tmp_path, "online") == EVERY
    assert run.logged == [1, 2, 3]
    assert len(told) == 1


def test_a_mirror_that_fails_at_the_end_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ClosingRun()
    fake_wandb(monkeypatch, run)
    with pytest.warns(UserWarning, match="it never answered"):
        assert train(tmp_path, "offline") == EVERY
    assert run.logged == [1, 2, 3, 4, 5, 5, 6]
    assert run.closed


def test_a_fault_of_training_is_not_swallowed_with_those_of_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wandb(monkeypatch, ClosingRun())
    with (
        pytest.warns(UserWarning, match="it never answered"),
        pytest.raises(FloatingPointError, match="the loss is nan"),
    ):
        train(tmp_path, "online", broken_at=4)
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]

"""When checkpoints are written and which are kept, with given metric values and a manual clock."""

import math
from typing import Any

import jax
import pytest

from training.config import CheckpointConfig, RunConfig, TrainingConfig
from training.saved import saving
from training.saved.saving import Clock, SaveHook, check_keep_best, to_keep
from training.saved.steps import first_line

NAN, INF = math.nan, math.inf


def kept(values: dict[int, float | None], **config: Any) -> set[int]:
    """The steps that are kept, for steps with these values of eval/a/loss; None = not evaluated."""
    found = {step: {} if v is None else {"eval/a/loss": v} for step, v in values.items()}
    steps, problem = to_keep(sorted(values), CheckpointConfig(**config), found.__getitem__)
    assert not problem
    return steps


@pytest.mark.parametrize(
    ("values", "config", "steps"),
    [
        ({1: 3.0, 2: 1.0, 3: 2.0}, {"keep": 0}, {1, 2, 3}),
        ({1: 3.0, 2: 1.0, 3: 2.0}, {"keep": 1}, {3}),
        ({1: 3.0, 2: 1.0, 3: 2.0}, {"keep": 1, "keep_best": "eval/a/loss"}, {2, 3}),
        ({1: 3.0, 2: 1.0, 3: 2.0}, {"keep": 1, "keep_best": "-eval/a/loss"}, {1, 3}),
        ({1: NAN, 2: 1.0, 3: 2.0}, {"keep": 1, "keep_best": "eval/a/loss"}, {2, 3}),
        ({1: NAN, 2: 1.0, 3: 2.0}, {"keep": 1, "keep_best": "-eval/a/loss"}, {3}),
        ({1: -INF, 2: 1.0, 3: 2.0}, {"keep": 1, "keep_best": "eval/a/loss"}, {2, 3}),
        ({1: NAN, 2: None, 3: None}, {"keep": 1, "keep_best": "eval/a/loss"}, {3}),
        ({1: None, 2: 5.0, 3: None}, {"keep": 1, "keep_best": "eval/a/loss"}, {2, 3}),
        ({1: None, 2: None, 3: None}, {"keep": 1, "keep_best": "eval/a/loss"}, {3}),
        ({10: None, 20: None, 25: None, 30: None}, {"keep": 1, "keep_every": 20}, {20, 30}),
    ],
)
def test_the_newest_the_best_and_every_nth_step_are_kept(
    values: dict[int, float | None], config: dict, steps: set[int]
) -> None:
    assert kept(values, **config) == steps


def test_nothing_is_deleted_for_a_metric_that_is_not_measured() -> None:
    config = CheckpointConfig(keep=1, keep_best="eval/a/los")
    found: dict[int, dict[str, float]] = {1: {}, 2: {"eval/a/loss": 1.0}, 3: {}}
    steps, problem = to_keep([1, 2, 3], config, found.__getitem__)
    assert steps == {1, 2, 3}
    assert "eval/a/los was not measured" in problem
    assert problem.endswith("there are: eval/a/loss")


def test_a_split_that_is_not_held_out_is_reported_at_the_start() -> None:
    check_keep_best(CheckpointConfig(), [])
    check_keep_best(CheckpointConfig(keep_best="-eval/a/loss"), ["a"])
    with pytest.raises(ValueError, match=r"names no evaluated split; there are: eval/a/"):
        check_keep_best(CheckpointConfig(keep_best="eval/b/loss"), ["a"])
    with pytest.raises(ValueError, match="none: no split is held out"):
        check_keep_best(CheckpointConfig(keep_best="eval/a/loss"), [])
    with pytest.raises(ValueError, match="train/loss is not an evaluated metric"):
        CheckpointConfig(keep_best="-train/loss")


@pytest.mark.parametrize(
    ("training", "checkpoint", "zero"),
    [
        ({"on_spike": "rollback"}, {"every": 0, "minutes": 5.0}, "checkpoint.every"),
        ({"eval_every": 0}, {"keep_best": "eval/a/loss"}, "training.eval_every"),
    ],
)
def test_a_setting_that_needs_an_interval_is_refused_without_one(
    training: dict[str, Any], checkpoint: dict[str, Any], zero: str
) -> None:
    with pytest.raises(ValueError, match=f"{zero}.* 0; name a number"):
        RunConfig(training=TrainingConfig(**training), checkpoint=CheckpointConfig(**checkpoint))
    RunConfig(training=TrainingConfig(**training))
    RunConfig(checkpoint=CheckpointConfig(**checkpoint))


def test_a_save_is_due_by_updates_by_the_clock_and_for_ever() -> None:
    now = [0.0]
    clock = Clock(60.0, lambda: now[0])
    hook = SaveHook(10, lambda step, state: None, 25, clock)
    assert [n for n in range(1, 52) if hook.is_due(n, False)] == [10, 20, 25, 30, 40, 50]
    now[0] = 59.0
    assert not hook.is_due(51, False)
    now[0] = 60.0
    assert hook.is_due(52, False)
    clock.start()
    assert not hook.is_due(53, False)


def test_without_minutes_the_clock_is_not_looked_at() -> None:
    assert not Clock(0.0, lambda: 1e9).is_over()


@pytest.mark.parametrize("index", [0, 1])
def test_process_0_decides_by_its_clock(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    wishes: list[bool] = []

    class Agreement:
        def __call__(self, wish: bool) -> bool:
            wishes.append(wish)
            return True

        def forget(self) -> None:
            pass

    monkeypatch.setattr(saving, "Agreement", Agreement)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    times = iter([0.0, 90.0])
    assert Clock(60.0, lambda: next(times)).is_over()  # as agreed
    assert wishes == [index == 0]


@pytest.mark.parametrize("cause", ["No space left on device", "File too large"])
def test_of_a_failed_save_the_systems_own_words_are_reported(cause: str) -> None:
    around = f"OUT_OF_RANGE: Error writing a in OCDBT database: Failed: x [OS error 27: {cause}] y"
    assert first_line(RuntimeError(around)) == cause

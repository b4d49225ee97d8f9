"""Harmful updates are skipped, and no others."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig
from optim.loss_scale import LossScale
from optim.optimizers import make_optimizer
from training.config import OnSpike, TrainingConfig
from training.skips import Skips
from training.spans import parse_range
from training.update.observables import Observable, tensor_norms, unpack
from training.update.spikes import init_guard
from training.update.state import TrainState
from training.update.step import StepParts, train_step
from training.update.step_metrics import numbers, to_row

SETTINGS = TrainingConfig(spike_window=8)
Losses = dict[int, float]


OPTIMIZER = make_optimizer(OptimConfig())


@cache
def update(settings: TrainingConfig, warmup_steps: int) -> Callable[..., Any]:
    """The compiled update, one for all runs with these settings."""

    def loss(params: dict, batch: Any, keys: jax.Array, context: object) -> tuple[jax.Array, dict]:
        distance = jnp.square(params["kernel"] - batch["target"]).mean()
        return (distance + 1) * batch["factor"][0], {}

    return jax.jit(
        partial(
            train_step,
            StepParts(
                loss,
                OPTIMIZER,
                lambda step: jnp.float32(1e-3),
                settings=settings,
                is_warm=lambda step: step >= warmup_steps,
                update_ema=lambda ema, params, _, step: jax.tree.map(
                    lambda a, p: 0.9 * a + 0.1 * p, ema, params
                ),
            ),
        )
    )


def run(
    bad: Losses,
    steps: int,
    settings: TrainingConfig = SETTINGS,
    warmup_steps: int = 0,
    loss_scale: LossScale | None = None,
) -> tuple[list[TrainState], list[dict[str, float]]]:
    """Run updates whose loss is multiplied by `bad[n]`. Returns the initial state with the state
    after each, and the rows."""
    step = update(settings, warmup_steps)
    state = TrainState.create(
        lambda key: {"kernel": jax.random.normal(key, (4,))},
        OPTIMIZER,
        0,
        init_ema=lambda params: params,
    )._replace(guard=init_guard(settings))
    states, rows = [state._replace(loss_scale=loss_scale)], []
    for n in range(steps):
        rng = np.random.default_rng(n)
        batch = {
            "target": rng.normal(size=4).astype(np.float32),
            "factor": np.full((4,), bad.get(n, 1.0), np.float32),
            "example_index": np.arange(4, dtype=np.int32),
        }
        state, metrics = step(states[-1], batch)
        states.append(state)
        rows.append(numbers(to_row(metrics)))
    return states, rows


def events(rows: list[dict[str, float]]) -> list[int]:
    return [int(row["guard/event"]) for row in rows]


def assert_unchanged(new: TrainState, old: TrainState) -> None:
    kept = ("params", "opt_state", "ema")
    for name in kept:
        jax.tree.map(np.testing.assert_array_equal, getattr(new, name), getattr(old, name))
    assert int(new.step) == int(old.step) + 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("on_spike", ["off", "skip"])
def test_nan_reaches_neither_weights_nor_optimizer_nor_averages(
    value: float, on_spike: OnSpike
) -> None:
    settings = dataclasses.replace(SETTINGS, on_spike=on_spike)
    states, rows = run(dict.fromkeys((3, 4, 5, 6, 7), value), 12, settings)
    assert events(rows) == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    for n in (3, 4, 5, 6, 7):
        assert_unchanged(states[n + 1], states[n])
    assert all(np.isfinite(states[-1].params["kernel"]))
    assert rows[7]["guard/pressure"] == pytest.approx(5, abs=0.02)
    assert not np.array_equal(states[9].params["kernel"], states[8].params["kernel"])


def test_an_update_to_nan_weights_is_skipped_though_loss_and_gradient_are_finite() -> None:
    def loss(params: dict, batch: Any, keys: jax.Array, context: object) -> tuple[jax.Array, dict]:
        return jnp.square(params["tokens"][0]).sum(), {}  # the other row has no gradient

    optimizer = make_optimizer(OptimConfig(epsilon=0.0))
    schedule = lambda step: jnp.float32(0.1)  # noqa: E731
    step = jax.jit(partial(train_step, StepParts(loss, optimizer, schedule, settings=SETTINGS)))
    params = {"tokens": jnp.ones((2, 3))}
    old = TrainState.create(lambda key: params, optimizer, 0)._replace(guard=init_guard(SETTINGS))
    old = old._replace(loss_scale=LossScale(jnp.float32(4.0), jnp.int32(0)))
    new, metrics = step(old, {"example_index": np.arange(2, dtype=np.int32)})
    assert np.isfinite(metrics.loss)
    assert np.isfinite(metrics.grad_norm)
    assert_unchanged(new, old)
    assert int(metrics.guard.event) == 1
    assert float(metrics.guard.pressure) == 1
    assert new.loss_scale is not None
    assert float(new.loss_scale.scale) == 4.0  # a lower scale would not help


def test_a_spike_is_skipped_and_forgotten() -> None:
    states, rows = run({20: 50.0, 25: 50.0}, 30)
    assert [n for n, event in enumerate(events(rows)) if event] == [20, 25]
    assert events(rows)[20] == 2
    assert_unchanged(states[21], states[20])
    guard = states[-1].guard
    assert guard is not None
    assert max(np.asarray(guard.losses)) < 10  # the window holds only good losses


def test_a_row_of_spikes_becomes_a_new_level() -> None:
    settings = dataclasses.replace(SETTINGS, spike_patience=3)
    bad = dict.fromkeys(range(20, 40), 50.0) | {30: 5000.0}
    states, rows = run(bad, 40, settings)
    assert events(rows)[20:] == [2, 2, 2, 3, *[0] * 16]  # the window is refilled: 30 is no event
    for n in (20, 21, 22):
        assert_unchanged(states[n + 1], states[n])
    assert not np.array_equal(states[24].params["kernel"], states[23].params["kernel"])
    guard = states[24].guard
    assert guard is not None
    assert int(guard.seen) == 1
    again = run(dict.fromkeys(range(20, 40), 50.0) | {38: 5000.0}, 40, settings)[1]
    assert events(again)[32:] == [0, 0, 0, 0, 0, 0, 2, 0]


def test_spikes_with_good_updates_or_nan_between_are_no_level() -> None:
    settings = dataclasses.replace(SETTINGS, spike_patience=3)
    apart = {n: 50.0 for n in range(20, 40) if n % 3}
    assert not any(event == 3 for event in events(run(apart, 40, settings)[1]))
    mixed = {20: 50.0, 21: np.nan, 22: 50.0, 23: np.nan, 24: np.nan, 25: np.nan}
    assert events(run(mixed, 27, settings)[1])[20:] == [2, 1, 2, 1, 1, 1, 0]


def test_neither_the_warm_up_nor_a_window_that_is_not_full_knows_spikes() -> None:
    assert not any(events(run({5: 50.0}, 7)[1]))
    assert not any(events(run({12: 50.0}, 14, warmup_steps=13)[1]))
    assert any(events(run({12: 50.0}, 14, warmup_steps=12)[1]))


def test_off_means_off() -> None:
    assert not any(events(run({20: 50.0}, 22, dataclasses.replace(SETTINGS, on_spike="off"))[1]))


def test_the_guard_changes_no_bit_of_a_run_without_events() -> None:
    with_it, _ = run({}, 20)
    without, _ = run({}, 20, dataclasses.replace(SETTINGS, on_spike="off"))
    jax.tree.map(np.testing.assert_array_equal, with_it[-1].params, without[-1].params)


def test_a_replay_gives_the_same_bits() -> None:
    bad = {9: np.nan, 20: 50.0}
    one = run(bad, 24)[0][-1]
    update.cache_clear()  # traced and compiled anew
    other = run(bad, 24)[0][-1]
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_overflow_in_float16_is_an_event_only_at_the_floor() -> None:
    scale = LossScale(jnp.float32(4.0), jnp.int32(0))
    settings = dataclasses.replace(SETTINGS, loss_scale_floor=1.0, loss_scale_window=3)
    states, rows = run(dict.fromkeys(range(4), np.inf), 8, settings, loss_scale=scale)
    assert events(rows) == [0, 0, 1, 1, 0, 0, 0, 0]
    assert [row["loss_scale/scale"] for row in rows] == [4, 2, 1, 1, 1, 1, 1, 2]
    assert_unchanged(states[1], states[0])


def test_norms_of_every_tensor_come_when_they_are_due() -> None:
    params = {"run0": {"kernel": jnp.ones((2, 3))}, "scale": jnp.full((4,), 2.0)}
    optimizer = make_optimizer(OptimConfig())

    def loss(params: dict, batch: Any, keys: jax.Array, context: object) -> tuple[jax.Array, dict]:
        return params["run0"]["kernel"].sum() + params["scale"].sum(), {}

    table = [Observable(2, tensor_norms)]
    rate = lambda step: jnp.float32(0.5)  # noqa: E731
    step = jax.jit(
        partial(train_step, StepParts(loss, optimizer, rate, settings=SETTINGS, observables=table))
    )
    state = TrainState.create(lambda key: params, optimizer, 0)
    batch: Callable[[], dict] = lambda: {"example_index": np.arange(2, dtype=np.int32)}  # noqa: E731
    state, first = step(state, batch())
    before = state.params
    state, second = step(state, batch())
    assert unpack(first.observed) == {}
    values = unpack(second.observed)
    assert set(values) >= {"norm/grad/run0/kernel/1", "norm/param/scale", "norm/update/scale"}
    assert values["norm/grad/scale"] == pytest.approx(2.0)
    assert values["norm/param/run0/kernel/0"] == pytest.approx(
        float(jnp.linalg.norm(before["run0"]["kernel"][0]))
    )


def test_skipped_batches_shift_later_updates_and_not_earlier_ones(tmp_path: Path) -> None:
    skips = Skips(tmp_path / "skips.json")
    skips.skip(3, 5, 0, "by hand")
    assert [skips.position(n) for n in range(6)] == [0, 1, 2, 5, 6, 7]
    before = [skips.position(n) for n in range(5)]
    skips.skip(2, 9, 5, "spike")  # five updates are finished, on batches up to 6
    assert [skips.position(n) for n in range(5)] == before
    assert [skips.position(n) for n in (5, 6)] == [9, 10]
    assert skips.skip(0, 9, 5, "by hand") == []
    again = Skips(tmp_path / "skips.json")
    assert again.ranges == skips.ranges
    trained = [again.position(n) for n in range(40)]
    assert trained == sorted(set(trained))


def test_overlapping_ranges_are_skipped_once(tmp_path: Path) -> None:
    skips = Skips(tmp_path / "skips.json")
    skips.skip(10, 12, 0, "by hand")
    skips.skip(8, 14, 0, "by hand")
    assert [skips.position(n) for n in (7, 8, 9)] == [7, 14, 15]


@pytest.mark.parametrize("text", ["5", "5:5", "7:3", "-1:3", "a:b"])
def test_a_text_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range a:b"):
        parse_range(text)


def test_a_damaged_list_of_batches_is_named(tmp_path: Path) -> None:
    (tmp_path / "skips.json").write_text('[{"start": 3}]')
    with pytest.raises(ValueError, match="skips.json is not a list of skipped batches"):
        Skips(tmp_path / "skips.json")

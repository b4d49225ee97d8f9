"""Schedules have the values of their definitions at given points."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from optim.config import DecayShape, OptimConfig, Schedule
from optim.lengths import Unit
from optim.schedules import (
    COURSES,
    FALLS,
    describe_course,
    make_course,
    make_schedule,
    make_warm_up,
)
from training.devices.batching import BatchPlan

CONFIG = OptimConfig(learning_rate=0.1, warmup_steps=10, decay_fraction=0.5)
STEPS = 100
ONE_EACH = BatchPlan(1).examples


@cache
def rates(config: OptimConfig, steps: int = STEPS, length: int = 0) -> np.ndarray:
    schedule = jax.jit(jax.vmap(make_schedule(config, steps)))  # as a run does it
    return np.array(schedule(np.arange(length or steps + 1)))


def test_the_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    rate = rates(CONFIG)
    np.testing.assert_allclose(rate[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rate[10:51], 0.1, rtol=1e-6)
    assert (np.diff(rate[50:]) < 0).all()
    assert rate[100] == 0
    assert rate[75] == pytest.approx(0.05)


def test_more_steps_change_only_the_decay() -> None:
    np.testing.assert_array_equal(rates(CONFIG)[:51], rates(CONFIG, 1000)[:51])


@pytest.mark.parametrize(
    ("shape", "after_a_quarter"), [("linear", 0.75), ("cosine", 0.853553), ("sqrt", 0.5)]
)
def test_the_decay_has_its_shape(shape: DecayShape, after_a_quarter: float) -> None:
    rate = rates(replace(CONFIG, decay_shape=shape, decay_steps=40))
    assert rate[60] == pytest.approx(0.1)
    assert rate[70] == pytest.approx(0.1 * after_a_quarter, rel=1e-5)
    assert rate[100] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("shape", FALLS)
@pytest.mark.parametrize("checkpoint", [30, 55, 400])
def test_the_decay_branches_off_any_checkpoint_of_the_hold(
    shape: DecayShape, checkpoint: int
) -> None:
    hold = rates(replace(CONFIG, decay_steps=100), 1000)
    branch = rates(replace(CONFIG, decay_steps=20, decay_shape=shape), checkpoint + 20)
    np.testing.assert_array_equal(branch[: checkpoint + 1], hold[: checkpoint + 1])
    assert branch[checkpoint + 1] < hold[checkpoint + 1]
    assert branch[checkpoint + 20] == pytest.approx(0.0, abs=1e-8)


def test_palm_s_course_is_one_over_the_root_of_the_step() -> None:
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, schedule="rsqrt")
    schedule = make_schedule(config, 255_000)
    for step, rate in (
        (0, 0.01),
        (9_999, 0.01),
        (10_000, 0.01),
        (40_000, 0.005),
        (90_000, 1 / 300),
    ):
        assert schedule(jnp.int32(step)) == pytest.approx(rate, rel=1e-6)


def test_opt_s_course_is_a_line_to_ten_percent() -> None:
    rate = rates(replace(CONFIG, schedule="polynomial"))
    assert rate[9] == pytest.approx(0.1)
    assert rate[55] == pytest.approx(0.055)
    assert rate[100] == pytest.approx(0.01)
    squared = rates(replace(CONFIG, schedule="polynomial", power=2.0, final_fraction=0.0))
    assert squared[55] == pytest.approx(0.025)


def test_cosine_passes_the_middle_halfway() -> None:
    rate = rates(replace(CONFIG, schedule="cosine", final_fraction=0.2))
    assert rate[9] == pytest.approx(0.1)
    assert rate[55] == pytest.approx(0.06)
    assert rate[100] == pytest.approx(0.02)


def test_exponential_falls_smoothly_or_in_steps() -> None:
    config = replace(
        CONFIG, schedule="exponential", transition_begin=20, transition_steps=30, decay_rate=0.25
    )
    smooth, steps = rates(config), rates(replace(config, staircase=True))
    assert smooth[20] == pytest.approx(0.1)
    assert smooth[35] == pytest.approx(0.05)
    assert smooth[80] == pytest.approx(0.1 / 16)
    np.testing.assert_allclose(steps[[20, 49, 50, 79, 80]], 0.1 / np.array([1, 1, 4, 4, 16]), 1e-6)
    assert rates(replace(config, final_fraction=0.5))[80] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("unit", "are_all"),
    [
        ("updates", False),
        ("examples", False),  # the same division, of the number of examples
        pytest.param("updates", True, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_staircase_falls_with_the_update_that_is_named(
    unit: Unit, are_all: bool
) -> None:
    config = replace(
        CONFIG, schedule="exponential", staircase=True, schedule_unit=unit, warmup_steps=0
    )
    # A compiler may replace division by n with × 1/n; for these n the result is no longer whole.
    ones = np.arange(1, 301, dtype=np.float32)
    lengths = [int(n) for n in ones[np.float32(1) / ones * ones != 1]]
    assert {41, 47, 293} <= set(lengths)
    if not are_all:
        lengths = [41, 47, 293]

    def after(step: Array) -> list[Array]:
        schedules = (
            make_schedule(replace(config, transition_steps=f"{n} {unit}"), STEPS, ONE_EACH)
            for n in lengths
        )
        return [schedule(step * n) for n, schedule in zip(lengths, schedules, strict=True)]

    found = np.array(jax.jit(after)(jnp.int32(1)))
    np.testing.assert_allclose(found, 0.05, rtol=1e-6)


@pytest.mark.parametrize("course", COURSES)
def test_no_course_jumps_and_none_exceeds_the_learning_rate(course: Schedule) -> None:
    rate = rates(replace(CONFIG, schedule=course, transition_begin=10, rsqrt_steps=30))
    assert 0 <= rate.min() <= rate.max() == pytest.approx(0.1)
    assert np.abs(np.diff(rate)).max() <= 0.1 / 10 * 1.001  # as steep as the warm-up


def test_after_a_restart_the_rate_rises_again_to_its_course() -> None:
    config = replace(CONFIG, schedule="cosine")
    course, again = rates(config), rates(replace(config, rewarm_from=40, rewarm_steps=5))
    np.testing.assert_array_equal(again[:40], course[:40])
    np.testing.assert_allclose(again[40:45], course[40:45] * np.arange(1, 6) / 5, rtol=1e-6)
    np.testing.assert_array_equal(again[45:], course[45:])


@pytest.mark.parametrize("course", COURSES)
def test_in_examples_a_batch_twice_as_large_goes_twice_as_fast(course: Schedule) -> None:
    updates = replace(CONFIG, schedule=course, transition_steps=20, rsqrt_steps=30)
    examples = replace(
        updates,
        schedule_unit="examples",
        warmup_steps="80 examples",
        transition_steps="160 examples",
        rsqrt_steps="240 examples",
    )
    constant = make_schedule(examples, STEPS, BatchPlan(8).examples)
    ramped = make_schedule(examples, 75, BatchPlan(8, ((50, 16),)).examples)
    for step in range(0, 101, 10):
        expected = make_schedule(updates, STEPS)(jnp.int32(step))
        np.testing.assert_allclose(constant(jnp.int32(step)), expected, rtol=1e-5, atol=1e-8)
        if step >= 50:
            half = jnp.int32(25 + step // 2)
            np.testing.assert_allclose(ramped(half), expected, rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match="schedule_unit examples is not possible here"):
        make_schedule(examples, STEPS)


def test_the_warm_up_is_over_when_it_is_counted_to_be() -> None:
    examples_at = BatchPlan(8).examples
    examples = replace(CONFIG, schedule_unit="examples", warmup_steps="80 examples")
    for is_warm in (
        make_warm_up(CONFIG),
        make_warm_up(CONFIG, examples_at),
        make_warm_up(replace(CONFIG, warmup_steps="80 examples"), examples_at),
        make_warm_up(replace(CONFIG, warmup_steps="73 examples"), examples_at),
        make_warm_up(examples, examples_at),
        make_warm_up(replace(examples, warmup_steps="10 updates"), examples_at),
    ):
        assert [bool(jax.jit(is_warm)(jnp.int32(step))) for step in (0, 9, 10)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("decay_fraction", 2.0, "decay_fraction 2.0 is not within 0..1"),
        ("final_fraction", -0.1, "final_fraction -0.1 is not within 0..1"),
        ("rsqrt_steps", 0, "rsqrt_steps must be at least 1, not 0"),
        ("rewarm_steps", -1, "rewarm_steps -1 is not a length; write a whole number and its unit"),
        ("warmup_steps", "5 %", "warmup_steps '5 %' is not a length"),
        ("warmup_steps", "1.5 updates", "warmup_steps '1.5 updates' is not a length"),
        ("decay_steps", "2e3", "decay_steps '2e3' is not a length"),
        ("power", 0.0, "power 0.0 must be positive"),
    ],
)
def test_a_course_that_cannot_be_is_refused(field: str, value: float, message: str) -> None:
    given: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=message):
        OptimConfig(**given)


def test_a_length_keeps_its_unit_whatever_the_course_counts() -> None:
    """README's command: with growing batches a warm-up of 2,000 updates must not become one of
    4."""
    plan = BatchPlan(512, ((50_000, 1024), (100_000, 2048)))
    preset = OptimConfig(learning_rate=3e-4, warmup_steps="2000 updates")
    for unit in ("updates", "examples"):
        config = replace(preset, schedule_unit=unit, warmup_steps=2000)
        schedule = jax.jit(make_schedule(config, 200_000, plan.examples))
        for n in (1, 4, 1000, 2000, 3000):
            assert schedule(jnp.int32(n - 1)) == pytest.approx(3e-4 * min(n / 2000, 1), rel=1e-5)


def test_a_number_without_a_unit_counts_updates_and_equal_lengths_are_equal() -> None:
    assert OptimConfig(warmup_steps=2000) == OptimConfig(warmup_steps="2k updates")
    assert OptimConfig(warmup_steps="1.5M examples").warmup_steps == "1500000 examples"
    config = OptimConfig(warmup_steps=5, schedule_unit="examples")
    assert config.warmup_steps == "5 updates"
    assert describe_course(config, 100, BatchPlan(8).examples) == (
        "learning rate by examples, 800 in all: warmup_steps 5 updates = 40, "
        "decay_steps as decay_fraction = 240"
    )


def test_a_length_of_the_other_unit_is_as_long_as_the_batches_there_make_it() -> None:
    plan = BatchPlan(4, ((10, 8),))  # 40 examples in the first 10 batches
    config = OptimConfig(
        warmup_steps="41 examples", decay_steps="17 examples", rewarm_from="9 updates"
    )
    config = replace(config, rewarm_steps="12 examples")
    updates = make_course(config, 20, plan.examples)
    assert (updates.end, updates.warmup, updates.decay) == (20, 11, 3)
    assert (updates.rewarm_from, updates.rewarm) == (9, 2)
    config = OptimConfig(
        schedule_unit="examples",
        warmup_steps="11 updates",
        decay_steps="3 updates",
        rewarm_from="9 updates",
        rewarm_steps="2 updates",
    )
    examples = make_course(config, 20, plan.examples)
    assert (examples.end, examples.warmup, examples.decay) == (120, 48, 24)
    assert (examples.rewarm_from, examples.rewarm) == (36, 12)
    falling = replace(config, schedule="exponential", transition_steps="5 updates")
    with pytest.raises(ValueError, match="transition_steps 5 updates is repeated"):
        make_schedule(falling, 20, plan.examples)


@pytest.mark.parametrize("course", COURSES)
def test_more_than_two_to_the_31_examples_are_counted_exactly(course: Schedule) -> None:
    """Compares with the same schedule counted in updates."""
    steps, size = 300_000_000, 4096
    updates = replace(CONFIG, schedule=course, warmup_steps=100_000_000, decay_steps=100)
    updates = replace(updates, rsqrt_steps=150_000_000, transition_steps=100_000_000)
    names = ("warmup_steps", "decay_steps", "rsqrt_steps", "transition_steps")
    given: dict[str, Any] = {
        name: f"{updates.length(name).number * size} examples" for name in names
    }
    examples = replace(updates, schedule_unit="examples", **given)
    points = jnp.array([0, 99_999_999, 150_000_001, steps - 100, steps - 3, steps - 1, steps])
    expected = jax.jit(jax.vmap(make_schedule(updates, steps)))(points)
    found = jax.jit(jax.vmap(make_schedule(examples, steps, BatchPlan(size).examples)))(points)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    if course == "hold":  # the last updates are told apart, of which float32 would see 16 alike
        np.testing.assert_allclose(found[-3:], 0.1 * np.array([0.03, 0.01, 0]), rtol=1e-6)


def test_a_staircase_of_billions_of_examples_falls_at_its_update() -> None:
    config = OptimConfig(
        learning_rate=1.0,
        schedule="exponential",
        staircase=True,
        schedule_unit="examples",
        warmup_steps=0,
        transition_steps="3000000001 examples",
    )
    schedule = jax.jit(jax.vmap(make_schedule(config, 10**7, BatchPlan(1000).examples)))
    at = [2_999_999, 3_000_000, 3_000_001, 6_000_000, 6_000_001, 9_000_000, 9_000_001]
    np.testing.assert_array_equal(schedule(jnp.array(at)), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])

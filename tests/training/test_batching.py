"""Growing batches: their examples, and their division among devices."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from config import Config, TokenTraining
from optim.config import OptimConfig
from training.config import ParallelConfig, TrainingConfig
from training.devices.batching import BatchPlan, make_plan, micro_batch_size
from training.devices.devices import Devices, find_devices
from training.devices.in_step import micro_batch_counter
from training.skips import Skips

PLAN = BatchPlan(4, ((10, 8), (13, 24)))


def devices(count: int = 4, **more: Any) -> Devices:
    return find_devices(ParallelConfig(devices=count, **more))


def test_the_examples_before_a_batch_are_those_of_all_batches_before_it() -> None:
    sizes = [4] * 10 + [8] * 3 + [24] * 7
    totals = [PLAN.examples(n) for n in range(21)]
    assert [b - a for a, b in pairwise(totals)] == sizes
    assert totals[0] == 0
    assert PLAN.examples(10**12) == 40 + 24 + 24 * (10**12 - 13)


def test_a_traced_step_gives_the_same() -> None:
    plan = BatchPlan(512, ((50_000, 1024), (115_000, 2048)))
    steps = [0, 1, 49_999, 50_000, 50_001, 115_001, 255_000, 2_000_000, 2**31 - 1]
    found = jax.jit(jax.vmap(plan.examples))(jnp.array(steps))
    exact = [plan.examples(n) for n in steps]
    assert exact[-1] > 2**41
    assert [int(a) * 2**32 + int(b) for a, b in zip(*found, strict=True)] == exact


def test_the_configuration_gives_the_plan() -> None:
    training = TrainingConfig(batch_size=4, batch_ramp=("10:8", "13:24"))
    assert make_plan(training) == PLAN
    assert make_plan(TrainingConfig(batch_size=4)) == BatchPlan(4)


def test_a_plan_continues_from_another_at_the_example_where_it_was() -> None:
    old = BatchPlan(8)
    for size in (16, 4):
        plan = BatchPlan(size).after(old.parts, 20)
        assert [plan.examples(n) for n in (19, 20, 21)] == [152, 160, 160 + size]
        again = BatchPlan(2, ((40, 6),)).after(plan.parts, 25)
        assert again.examples(25) == plan.examples(25)
        assert again.examples(41) == again.examples(25) + 15 * 2 + 6
    assert BatchPlan(8).after(old.parts, 20) == old
    assert PLAN.after(PLAN.parts, 11) == PLAN
    assert BatchPlan(16).after([[0, 8], [20, 16]], 10) == BatchPlan(8, ((10, 16),))


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        (("10",), "'10' is not BATCH:SIZE, such as 1000:1024"),
        (("0:8",), "'0:8' is not BATCH:SIZE"),
        (("5:8", "5:16"), "must rise: from batch 5 on 16 examples, after 8 from batch 5 on"),
        (("5:4",), "from batch 5 on 4 examples, after 4 from batch 0 on"),
    ],
)
def test_a_ramp_that_does_not_rise_is_refused(ramp: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(batch_size=4, batch_ramp=ramp)


def test_a_larger_batch_is_more_micro_batches_of_the_same_size() -> None:
    training = TrainingConfig(batch_size=8, accumulation_steps=2, batch_ramp=("10:16", "20:24"))
    for places, rows in (
        (devices(2), (4, 8, 12)),
        (devices(4, mode="mesh", fsdp=2), (8, 16, 24)),
        (devices(4, mode="mesh", tensor=2), (8, 16, 24)),
    ):
        size = micro_batch_size(training, places)
        assert size == 8 // 2 // places.num_shares
        count = micro_batch_counter(places, size)
        assert [count(seen) for seen in rows] == [2, 4, 6]


def test_a_named_micro_batch_takes_the_place_of_accumulation() -> None:
    training = TrainingConfig(batch_size=24, micro_batch_size=3, batch_ramp=("5:48",))
    assert micro_batch_size(training, devices(4)) == 3
    with pytest.raises(
        ValueError, match=r"batch_size 24 .* 2 device\(s\) × micro_batch_size 5; try"
    ):
        micro_batch_size(TrainingConfig(batch_size=24, micro_batch_size=5), devices(2))
    with pytest.raises(ValueError, match="add --training.accumulation_steps=1"):
        TrainingConfig(micro_batch_size="auto", accumulation_steps=2)
    with pytest.raises(ValueError, match="micro_batch_size cannot be negative, not -1"):
        TrainingConfig(micro_batch_size=-1)
    with pytest.raises(ValueError, match="auto is not possible here; name a number"):
        micro_batch_size(TrainingConfig(micro_batch_size="auto"), devices(2))


def test_a_batch_that_devices_cannot_share_is_refused_wherever_in_the_ramp() -> None:
    first = TrainingConfig(batch_size=10, batch_ramp=("10:16",))
    with pytest.raises(ValueError, match="batch_size 10 is not a multiple of 4 device.*try 8"):
        micro_batch_size(first, devices())
    later = TrainingConfig(batch_size=8, batch_ramp=("10:20",))
    with pytest.raises(
        ValueError, match=r"batch_ramp 20 is not a multiple of 4 device\(s\) × 2 .*try 16"
    ):
        micro_batch_size(later, devices())


def test_skipped_examples_are_not_counted(tmp_path: Path) -> None:
    skips = Skips(tmp_path / "skips.json")
    skips.skip(2, 4, 0, "by hand")
    skips.skip(9, 12, 0, "by hand")
    taken = [n for n in range(16) if n not in (2, 3, 9, 10, 11)]
    for step in range(len(taken)):
        seen = sum(PLAN.examples(n + 1) - PLAN.examples(n) for n in taken[:step])
        assert skips.examples(step, PLAN.examples) == seen


@pytest.mark.parametrize("more", [{"skip_batches": ("2:3",)}, {"on_spike": "rollback"}])
def test_a_schedule_in_examples_is_refused_if_batches_of_a_ramp_are_skipped(
    more: dict[str, Any],
) -> None:
    optim, ramp = OptimConfig(schedule_unit="examples"), ("10:64",)
    message = "optim counts examples .* use --optim.schedule_unit=updates with lengths in updates"
    with pytest.raises(ValueError, match=message):
        Config(optim=optim, training=TokenTraining(batch_ramp=ramp, **more))
    Config(optim=optim, training=TokenTraining(batch_ramp=ramp))
    Config(optim=optim, training=TokenTraining(**more))
    Config(training=TokenTraining(batch_ramp=ramp, **more))
    optim = OptimConfig(warmup_steps="1k examples")
    with pytest.raises(ValueError, match=message):
        Config(optim=optim, training=TokenTraining(batch_ramp=ramp, **more))

"""Finding the largest micro-batch that fits into a device's memory."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from training.config import ParallelConfig, ParallelMode
from training.devices import fitting, in_step, parallel, placing
from training.devices.batching import BatchPlan
from training.devices.devices import Devices, find_devices
from training.devices.fitting import available_memory, compile_memory, divisors, find_micro_batch
from training.update.state import TrainState
from training.update.step import Step, StepParts, train_step

WIDTH = 4096  # activations per example
PLAN = BatchPlan(32, ((5, 96),))
both = pytest.mark.parametrize("mode", ["pmap", "mesh"])


def create() -> TrainState:
    return TrainState.create(
        lambda key: {"kernel": jax.random.normal(key, (8, WIDTH))}, make_optimizer(OptimConfig()), 0
    )


def make_step(devices: Devices, made: list[int], size: int) -> Step:
    made.append(size)

    def loss(params: dict, batch: Any, keys: jax.Array, context: object) -> tuple[jax.Array, dict]:
        hidden = jnp.tanh(batch["x"] @ params["kernel"])
        return jnp.square(jnp.sin(hidden)).mean(), {}

    return partial(
        train_step,
        StepParts(
            loss,
            make_optimizer(OptimConfig()),
            lambda step: jnp.float32(1e-2),
            micro_batches=in_step.micro_batch_counter(devices, size),
            mean_over_devices=in_step.make_mean(devices),
        ),
    )


def batch(size: int) -> Any:
    return {
        "x": jax.ShapeDtypeStruct((size, 8), jnp.float32),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def devices_in(mode: ParallelMode) -> Devices:
    return find_devices(ParallelConfig(mode=mode, devices=2, fsdp=2 if mode == "mesh" else 1))


def need(devices: Devices, size: int) -> int:
    """Bytes per device that this micro-batch needs."""
    state, step = placing.shapes(create, devices), make_step(devices, [], size)
    return sum(compile_memory(step, state, batch(96), devices).values())


@both
def test_the_largest_micro_batch_that_fits_is_taken(
    mode: ParallelMode, capsys: pytest.CaptureFixture[str]
) -> None:
    devices, made = devices_in(mode), list[int]()
    limit = need(devices, 4) + 1000
    assert need(devices, 8) > limit
    found = find_micro_batch(PLAN, devices, partial(make_step, devices, made), create, batch, limit)
    assert found == 4
    assert made == [16, 8, 4]  # not 2, not 1; 32, of a batch of 96 on 2 devices, is no divisor
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line.split()[0] for line in lines[1:]] == ["16", "8", "4"]
    assert [line.split()[1] for line in lines[1:]] == ["1", "2", "4"]
    assert "GB too much" in lines[1]
    assert lines[3].endswith("fits")


def test_nothing_is_compiled_beyond_what_fits() -> None:
    devices, made = devices_in("pmap"), list[int]()
    found = find_micro_batch(
        PLAN, devices, partial(make_step, devices, made), create, batch, 10**12
    )
    assert (found, made) == (16, [16])


def test_where_nothing_fits_it_is_reported_by_how_much() -> None:
    devices = devices_in("pmap")
    plan, made = BatchPlan(4), list[int]()
    with pytest.raises(ValueError, match=r"auto: with one example at a time .* GB too much; take"):
        find_micro_batch(plan, devices, partial(make_step, devices, made), create, batch, 1000)
    assert made == [2, 1]


def test_an_update_that_is_tried_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    devices, made = devices_in("pmap"), list[int]()
    monkeypatch.setattr(fitting, "_can_try", lambda devices: True)  # as on an accelerator
    before = len(jax.live_arrays())
    find_micro_batch(
        BatchPlan(4), devices, partial(make_step, devices, made), create, batch, 10**12
    )
    assert len(jax.live_arrays()) == before

    def run_out(step: Step, devices: Devices) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(parallel, "compile_step", run_out)
    with pytest.raises(ValueError, match="with one example .* when tried: RESOURCE_EXHAUSTED: Out"):
        find_micro_batch(
            BatchPlan(4), devices, partial(make_step, devices, made), create, batch, 10**12
        )


def test_divisors_come_largest_first() -> None:
    assert divisors(12) == [12, 6, 4, 3, 2, 1]


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("line", "group", "limit", "usage", "idle"),
    [
        ("0::/job/step", "job/step", "memory__max", "memory__current", "inactive_file"),
        (
            "4:memory:/job/step",
            "memory/job",  # a limit of the enclosing group
            "memory__limit_in_bytes",
            "memory__usage_in_bytes",
            "total_inactive_file",
        ),
    ],
    ids=["v2", "v1"],
)
def test_memory_is_what_machine_and_control_groups_leave(
    tmp_path: Path, line: str, group: str, limit: str, usage: str, idle: str
) -> None:
    write(tmp_path / "proc", meminfo="MemTotal: 900 kB\nMemAvailable:    500 kB")
    assert available_memory(tmp_path) == 500 * 1024
    write(tmp_path / "proc" / "self", cgroup=line)
    assert available_memory(tmp_path) == 500 * 1024
    folder = tmp_path / "sys/fs/cgroup" / group
    write(folder, **{limit: 100_000, usage: 70_000, "memory__stat": f"cache 5\n{idle} 10000"})
    assert available_memory(tmp_path) == 40_000
    if limit == "memory__max":
        write(folder, memory__max="max")
        assert available_memory(tmp_path) == 500 * 1024


def test_this_machine_has_memory() -> None:
    devices = devices_in("pmap")
    assert 10**7 < fitting.device_memory(devices) <= available_memory()

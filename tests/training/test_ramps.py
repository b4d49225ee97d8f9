"""Runs whose batches grow, and runs that find their micro-batch themselves."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_session import CHECKPOINT, OPTIM, TRAINING, World, assert_same, killed_at
from training.config import ParamDtype, RunConfig
from training.recipe import Recipe
from training.reports import metrics

RAMP = dataclasses.replace(TRAINING, steps=12, batch_size=8, batch_ramp=("6:16",))


class RampedWorld(World):
    """Batches of the plan's sizes, and a matrix whose weights are bfloat16 where asked."""

    def batch_at(self, position: int) -> dict[str, np.ndarray]:
        first, end = self.plan.examples(position), self.plan.examples(position + 1)
        rows = np.arange(first, end, dtype=np.int32)
        target = np.random.default_rng(position).normal(size=(len(rows), 1)).astype(np.float32)
        return {"target": target, "factor": np.ones_like(target), "example_index": rows}

    def recipe(self, config: RunConfig) -> Recipe:
        def loss(
            params: dict, batch: dict, keys: jax.Array, context: Any
        ) -> tuple[jax.Array, dict]:
            noise = jax.vmap(lambda key: jax.random.normal(key, (3, 4)))(keys)
            away = jnp.square(params["kernel"][None] - batch["target"][..., None] + noise)
            return away.mean(), {}

        def shapes(size: int) -> dict[str, jax.ShapeDtypeStruct]:
            row = jax.ShapeDtypeStruct((size, 1), jnp.float32)
            return {
                "target": row,
                "factor": row,
                "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
            }

        init = lambda key: {"kernel": jax.random.normal(key, (3, 4))}  # noqa: E731
        original = super().recipe(config)
        return dataclasses.replace(original, init=init, loss=loss, batch_shapes=shapes)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_stopped_in_a_ramp_and_resumed_equals_straight_through(
    tmp_path: Path, param_dtype: ParamDtype
) -> None:
    training = dataclasses.replace(RAMP, param_dtype=param_dtype)
    straight, resumed = (RampedWorld(tmp_path / n, {}, training) for n in ("straight", "resumed"))
    for world in (straight, resumed):
        world.change(
            optim=dataclasses.replace(OPTIM, schedule_unit="examples", decay_fraction=0.5),
            checkpoint=dataclasses.replace(CHECKPOINT, every=5),
        )
    killed_at(7)(resumed)
    end = resumed.run()
    assert_same(end, straight.run())
    assert end.params["kernel"].dtype == param_dtype
    assert resumed.losses() == straight.losses()
    rows = metrics.read(resumed.folder / "metrics.jsonl")
    assert [row["examples"] for row in rows] == [8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 144]


def test_a_micro_batch_that_fits_is_found_and_a_longer_run_may_name_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = dataclasses.replace(TRAINING, steps=4, micro_batch_size="auto")
    world = RampedWorld(tmp_path / "run", {}, training)
    world.run()
    assert " 1  " in capsys.readouterr().out.partition("GB a device")[2].partition("fits")[0]
    world.change(training=dataclasses.replace(training, steps=6, micro_batch_size=1))
    world.run()
    assert len(world.losses()) == 6

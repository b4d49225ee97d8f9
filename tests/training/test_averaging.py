"""Schedule-free AdamW: equal to its definition, evaluated at its average, started from weights."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config import from_yaml
from optim.averaging import averaged
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.test_extending import RECIPE, batch, rows
from training.config import CheckpointConfig, RunConfig, TrainingConfig
from training.hooks import evaluate_loss
from training.loop import Hook
from training.recipe import Recipe
from training.session import train
from training.update.state import TrainState

RATE, BETA1, BETA2, DECAY = 0.05, 0.9, 0.98, 0.1
OPTIM = OptimConfig(
    name="schedule_free",
    learning_rate=RATE,
    warmup_steps="4 updates",
    decay_fraction=0.0,
    clip_norm=0.0,
    weight_decay=DECAY,
)


def published(start: Any, steps: int) -> tuple[Any, Any]:
    """y and x after `steps` updates of the recipe, after Defazio et al. 2024, in float64."""
    x = z = y = np.array(start, np.float64)
    square, total = np.zeros_like(y), 0.0
    for n in range(steps):
        rate = RATE * min((n + 1) / 4, 1)
        gradient = y - batch(n)["target"].mean(0)
        square = BETA2 * square + (1 - BETA2) * gradient**2
        step = gradient / (np.sqrt(square / (1 - BETA2 ** (n + 1))) + 1e-8)
        z = z - rate * step
        total += rate**2
        share = rate**2 / total
        x = (1 - share) * x + share * z
        y = (1 - BETA1) * z + BETA1 * x
    return y, x


def run(folder: Path, steps: int, recipe: Recipe = RECIPE, **settings: Any) -> TrainState:
    config = RunConfig(
        output_dir=str(folder),
        optim=OPTIM,
        training=TrainingConfig(steps=steps, batch_size=4),
        checkpoint=CheckpointConfig(every=3),
        **settings,
    )
    return train(config, lambda config: recipe, from_yaml)


def away(params: Any, batch: Any) -> tuple[Any, Any]:
    return jnp.square(params["x"]).sum(), 1


EVALUATED = dataclasses.replace(
    RECIPE, hooks=lambda run: [Hook(1, evaluate_loss(away, {"test": lambda: [batch(0)]}))]
)


def test_weights_and_their_average_are_the_published_ones_and_the_average_is_evaluated(
    tmp_path: Path,
) -> None:
    """Weight decay is for kernels only; the recipe's one vector gets none."""
    state = run(tmp_path, 9, EVALUATED)
    y, x = published(np.zeros(3), 9)
    np.testing.assert_allclose(state.params["x"], y, rtol=1e-4)
    np.testing.assert_allclose(state.weights["x"], x, rtol=1e-4)
    assert not np.allclose(x, y, rtol=1e-2)
    losses = [row["eval/test/loss"] for row in rows(tmp_path)]
    expected = [np.square(published(np.zeros(3), n)[1]).sum() for n in range(1, 10)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_it_starts_from_other_weights(tmp_path: Path) -> None:
    """It must not start from the random weights that they replace."""
    start = np.array([3.0, -2.0, 1.0], np.float32)

    def weights(path: str, fresh: Any) -> tuple[Any, list[str]]:
        return {"x": jnp.array(start)}, []

    recipe = dataclasses.replace(RECIPE, start_from=weights)
    state = run(tmp_path, 3, recipe, init_from="elsewhere")
    y, x = published(start, 3)
    np.testing.assert_allclose(state.params["x"], y, rtol=1e-4)
    np.testing.assert_allclose(state.weights["x"], x, rtol=1e-4)


def test_stopped_and_resumed_is_straight_through_bit_for_bit(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", 9)
    run(tmp_path / "resumed", 5)
    resumed = run(tmp_path / "resumed", 9)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


def test_decay_and_factors_move_the_point_that_steps_are_taken_from() -> None:
    config = dataclasses.replace(OPTIM, rates=("head:3",), beta2=0.0, epsilon=0.0)
    optimizer = make_optimizer(config)
    params = {"head": {"kernel": jnp.float32([[2.0, -1.0]])}}
    state = optimizer.init(params)
    direction, state = optimizer.update(params, state, params, learning_rate=0.1)
    moved = jax.tree.map(lambda p, u: p - 0.1 * u, params, direction)
    z = np.array([[2.0, -1.0]]) - 0.1 * 3 * (
        np.sign([[2.0, -1.0]]) + DECAY * np.array([[2.0, -1.0]])
    )
    np.testing.assert_allclose(moved["head"]["kernel"], z, rtol=1e-5)  # x = z after one step
    np.testing.assert_allclose(averaged(moved, state)["head"]["kernel"], z, rtol=1e-5)


def test_weights_in_bfloat16_and_a_call_without_a_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule_free takes differences"):
        RunConfig(optim=OPTIM, training=TrainingConfig(param_dtype="bfloat16"))
    params = {"x": jnp.zeros(3)}
    optimizer = make_optimizer(OPTIM)
    with pytest.raises(ValueError, match="needs update"):
        optimizer.update(params, optimizer.init(params), params)

"""A second player: trained beside the model, with its own loss, optimizer and first step."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config import from_yaml
from optim.averaging import init_ema, make_ema
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.spread import spread_step
from training import session
from training.config import CheckpointConfig, ParallelConfig, RunConfig, TrainingConfig
from training.devices import parallel, placing
from training.devices.devices import find_devices
from training.recipe import Recipe
from training.reports import metrics
from training.session import train
from training.update.loss import LossContext
from training.update.players import MODEL, Player
from training.update.spikes import init_guard
from training.update.state import TrainState
from training.update.step import StepParts, train_step

RATE, FIRST = 0.1, 3
SGD = make_optimizer(OptimConfig(name="sgd", clip_norm=0.0, weight_decay=0.0))


def model_loss(params: dict, batch: Any, keys: Any, context: LossContext) -> tuple[jax.Array, dict]:
    """The model minimises (x − t)² / 2 + x·y over x, with the critic's y fixed."""
    x, y = params["x"], context.players["critic"]["y"]
    return (0.5 * jnp.square(x[None] - batch["target"])).mean() + (x * y).mean(), {}


def critic_loss(
    params: dict, batch: Any, keys: Any, context: LossContext
) -> tuple[jax.Array, dict]:
    """The critic maximises x·y − y² / 2 over y."""
    x, y = context.players[MODEL]["x"], params["y"]
    return (0.5 * jnp.square(y)).mean() - (x * y).mean(), {"gap": jnp.abs(x - y).mean()}


def critic(first_step: int = FIRST) -> Player:
    return Player(
        init=lambda key: {"y": jnp.full((4,), 2.0)},
        loss=critic_loss,
        optimizer=SGD,
        schedule=lambda step: jnp.float32(2 * RATE),
        first_step=first_step,
    )


def batch(n: int = 0) -> Any:
    target = np.random.default_rng(n).normal(size=(8, 4)).astype(np.float32)
    return {"target": target, "example_index": np.arange(8, dtype=np.int32)}


RECIPE = Recipe(
    init=lambda key: {"x": jax.random.normal(key, (4,))},
    loss=model_loss,
    open_batches=lambda plan, devices: batch,
    batch_shapes=lambda size: {},
    depends_on={},
    players={"critic": critic()},
)
LAYOUTS = [
    ParallelConfig(devices=1),
    ParallelConfig(devices=4),
    ParallelConfig(mode="mesh"),
    ParallelConfig(mode="mesh", fsdp=4),
]


PAIRS = list(zip(LAYOUTS, (2, 1, 2, 1), strict=True))
OTHERS = [(layout, 3 - count) for layout, count in PAIRS]


@pytest.mark.parametrize(
    ("config", "micro_batches"),
    [*PAIRS, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_both_move_as_simultaneous_gradient_steps_in_numpy(
    config: ParallelConfig, micro_batches: int
) -> None:
    devices, players = find_devices(config), {"critic": critic()}
    step = spread_step(
        devices,
        model_loss,
        SGD,
        lambda step: jnp.float32(RATE),
        micro_batches=lambda rows: micro_batches,
        update_ema=make_ema(0.5),
        players=players,
    )
    create = lambda: TrainState.create(  # noqa: E731
        lambda key: {"x": jnp.ones((4,))}, SGD, 0, init_ema=init_ema, players=players
    )
    state, compiled = placing.create(create, devices), parallel.compile_step(step, devices)
    x, y, vx, vy = np.ones(4), np.full(4, 2.0), np.zeros(4), np.zeros(4)
    beta = OptimConfig(name="sgd").beta1
    for n in range(8):
        state, found = compiled(state, batch(n))
        gx = (x - batch(n)["target"].mean(0) + y) / 4
        gy = (y - x) / 4
        vx = beta * vx + gx
        x = x - RATE * vx
        if n >= FIRST:
            vy = beta * vy + gy
            y = y - 2 * RATE * vy
        assert np.isnan(found.more["critic/norm/grad"]) == (n < FIRST)
        assert np.isnan(found.more["critic/gap"]) == (n < FIRST)
        assert state.players is not None
        held = placing.on_first_device((state.params, state.players["critic"].params))
        np.testing.assert_allclose(held[0]["x"], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(held[1]["y"], y, rtol=1e-5, atol=1e-6)
    assert set(placing.on_first_device(state.ema)) == {"x"}  # only the model is averaged


@pytest.mark.parametrize("who", ["model", "critic"])
def test_neither_moves_where_one_would_become_nan(who: str) -> None:
    def poisoned(loss: Any) -> Any:
        def harmed(params: dict, batch: Any, keys: Any, context: LossContext) -> Any:
            value, metrics = loss(params, batch, keys, context)
            return value * batch["factor"].mean(), metrics

        return harmed

    player = critic(0)
    if who == "critic":
        player = dataclasses.replace(player, loss=poisoned(critic_loss))
    players, settings = {"critic": player}, TrainingConfig(on_spike="off")
    step = partial(
        train_step,
        StepParts(
            poisoned(model_loss) if who == "model" else model_loss,
            SGD,
            lambda step: jnp.float32(RATE),
            settings=settings,
            players=players,
        ),
    )
    state = TrainState.create(lambda key: {"x": jnp.ones((4,))}, SGD, 0, players=players)
    state = state._replace(guard=init_guard(settings))
    factors = [np.full((8,), value, np.float32) for value in (1.0, np.nan, 1.0)]
    compiled = jax.jit(step)
    one, _ = compiled(state, {**batch(), "factor": factors[0]})
    two, found = compiled(one, {**batch(), "factor": factors[1]})
    jax.tree.map(
        np.testing.assert_array_equal, (two.params, two.players), (one.params, one.players)
    )
    assert found.guard.event == 1
    three, found = compiled(two, {**batch(), "factor": factors[2]})
    assert found.guard.event == 0
    assert not np.array_equal(
        three.players["critic"].params["y"], two.players["critic"].params["y"]
    )


def test_the_room_that_is_checked_has_a_place_for_players(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[TrainState] = []

    class Checked(Exception):  # noqa: N818
        pass

    def check(state: TrainState, *more: Any) -> None:
        checked.append(state)
        raise Checked

    monkeypatch.setattr(session, "check_room", check)
    with pytest.raises(Checked):
        train(RunConfig(output_dir=str(tmp_path)), lambda config: RECIPE, from_yaml)
    assert set(checked[0].players or {}) == {"critic"}


def run(folder: Path, steps: int, recipe: Recipe = RECIPE) -> TrainState:
    """The state after `steps` updates, saved every 5."""
    config = RunConfig(
        output_dir=str(folder),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=0, decay_fraction=0.0, ema_decay=0.9),
        training=TrainingConfig(steps=steps, batch_size=8),
        checkpoint=CheckpointConfig(every=5),
    )
    return train(config, lambda config: recipe, from_yaml)


def test_a_run_with_two_players_resumes_bit_for_bit(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", 10)
    run(tmp_path / "resumed", 5)
    resumed = run(tmp_path / "resumed", 10)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    rows = metrics.read(tmp_path / "resumed" / "metrics.jsonl")
    assert [row["critic/loss"] is None for row in rows] == [n < FIRST for n in range(10)]


def test_a_player_may_begin_or_end_where_a_run_is_resumed(tmp_path: Path) -> None:
    def alone_loss(
        params: dict, batch: Any, keys: Any, context: LossContext
    ) -> tuple[jax.Array, dict]:
        return jnp.square(params["x"]).sum(), {}

    alone = dataclasses.replace(RECIPE, players={}, loss=alone_loss)
    before = run(tmp_path, 5, alone)
    assert before.players is None
    both = run(tmp_path, 6)
    assert both.players is not None
    first = critic().init(jax.random.key(0))["y"]
    moved = np.asarray(both.players["critic"].params["y"])
    assert np.all(moved != first)
    assert np.all(np.abs(moved - first) < 3)
    again = run(tmp_path, 7, alone)
    assert again.players is None
    assert int(again.step) == 7

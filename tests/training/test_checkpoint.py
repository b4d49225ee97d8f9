"""What is saved comes back bit for bit, and only into what it fits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from training.checkpoint import Checkpoints
from training.config import CheckpointConfig
from training.state import TrainState


def state_of(width: int, step: int = 0, dtype: str = "float16") -> TrainState:
    def init(key: jax.Array) -> dict:
        return {"a": {"kernel": jax.random.normal(key, (2, width))}, "b": jnp.ones(3)}

    state = TrainState.create(init, make_optimizer(OptimConfig()), seed=step, compute_dtype=dtype)
    return state._replace(step=jnp.int32(step))


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=7), {"records": "abc"})
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        found = checkpoints.resume(state_of(4), {"records": "abc"})
        params = checkpoints.restore_params(state_of(4).params, 7)
    expected = state_of(4, step=7)
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(expected))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)


def test_without_a_checkpoint_the_fresh_state_stays(tmp_path: Path) -> None:
    fresh = state_of(4)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        assert checkpoints.resume(fresh, {}) is fresh


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=1), {})
    with (
        Checkpoints(tmp_path, CheckpointConfig()) as checkpoints,
        pytest.raises(ValueError, match=r"a.kernel is \(2, 4\), not \(2, 5\)"),
    ):
        checkpoints.restore(state_of(5), 1)


def test_other_data_is_refused_by_name(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=1), {"records": "abc"})
    with (
        Checkpoints(tmp_path, CheckpointConfig()) as checkpoints,
        pytest.raises(ValueError, match=r"records \(was abc, now def\)"),
    ):
        checkpoints.resume(state_of(4), {"records": "def"})


def test_keeping_none_means_keeping_all(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig(keep=0)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(4, step=step), {})
    assert {p.name for p in tmp_path.iterdir() if p.name.isdecimal()} == {"1", "2"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig(keep=2)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(4, step=step), {})
    assert {p.name for p in tmp_path.iterdir() if p.name.isdecimal()} == {"2", "3"}

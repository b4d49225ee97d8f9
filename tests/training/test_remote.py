"""An object store: only complete steps count, any sharding is read, and a silent store is reported.

PASTEL_STORE=s3://BUCKET/tests pytest tests/training/test_checkpoint.py    tests a real one, too
"""

import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.training.test_checkpoint import assert_same, state_of
from training.config import CheckpointConfig
from training.saved import remote
from training.saved.checkpoint import Checkpoints


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}"


def test_a_step_counts_when_every_process_has_written_its_part(url: str) -> None:
    steps, store = remote.ObjectSteps(url), remote.open_store(url)
    store.write("whole/3.0-of-1", b"whole").result()
    store.write("whole/7.1-of-2", b"whole").result()
    assert steps.steps() == [3]
    store.write("whole/7.0-of-2", b"whole").result()
    assert steps.steps() == [3, 7]
    steps.delete(7)
    assert steps.steps() == [3]


def test_the_rest_of_an_interrupted_save_is_removed(url: str) -> None:
    store = remote.open_store(url)
    with Checkpoints(url, CheckpointConfig()) as them:
        them.save(state_of(4, step=3), {})
        for name in ("7/params/a/c/0", "aside-9/about.json", "run/config.yaml"):
            store.write(name, b"...").result()
        assert_same(them.resume(lambda: state_of(4), {}), state_of(4, step=3))
    assert remote.names(store, "7/") == []
    assert remote.names(store, "aside-9/") == ["about.json"]
    assert remote.names(store, "run/") == ["config.yaml"]


def test_a_save_that_is_cut_off_does_not_count_and_is_written_anew(url: str) -> None:
    def fail() -> None:
        raise RuntimeError("the power\nwent")

    messages: list[str] = []
    with Checkpoints(url, CheckpointConfig(), lambda _, text: messages.append(text), fail) as them:
        them.save(state_of(4, step=1), {})
        assert them.steps() == []
    assert messages == [
        "the checkpoint of step 1 could not be written: the power; older steps are as they were "
        "(none)"
    ]
    with Checkpoints(url, CheckpointConfig()) as them:
        assert them.resume(lambda: state_of(4), {}) is None
        them.save(state_of(4, step=1), {})
        assert_same(them.resume(lambda: state_of(4), {}), state_of(4, step=1))


@pytest.mark.parametrize("piece_bytes", [remote.PIECE_BYTES, 16])
def test_arrays_come_back_in_any_layout(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(remote, "PIECE_BYTES", piece_bytes)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
    layouts = [
        NamedSharding(mesh, PartitionSpec(*names)) for names in [(), ("x", "y"), (None, ("y", "x"))]
    ]
    array = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.bfloat16)
    for step, layout in enumerate(layouts):
        steps = remote.ObjectSteps(url)
        state = {"params": {"a": jax.device_put(array, layout), "zero": jnp.zeros(())}}
        steps.save(step, state, {}, lambda: None)
        steps.wait()
        for other in layouts:
            like = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=other)
            found = steps.restore(step, {"params": {"a": like, "zero": jnp.ones(())}})["params"]
            assert found["a"].sharding == other
            np.testing.assert_array_equal(found["a"], array)
            assert found["zero"] == 0
    pieces = {step: len(list(tmp_path.glob(f"{step}/params/a/c/*/*"))) for step in range(3)}
    assert pieces == ({0: 1, 1: 4, 2: 4} if piece_bytes > 16 else {0: 8, 1: 8, 2: 8})


def test_a_store_that_does_not_answer_is_no_damage(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(url, CheckpointConfig()) as them:
        them.save(state_of(4, step=1), {})
    monkeypatch.setattr(remote, "RETRIES", {"max_retries": 1, "initial_delay": "1ms"})
    with socket.socket() as nobody:
        nobody.bind(("localhost", 0))
        address = f"http://localhost:{nobody.getsockname()[1]}"
    for name, value in (
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
    ):
        monkeypatch.setenv(name, value)
    messages: list[str] = []
    with Checkpoints(
        "s3://bucket/run", CheckpointConfig(), lambda _, text: messages.append(text)
    ) as s3:
        s3.save(state_of(4, step=1), {})
        with pytest.raises(
            ValueError, match="step 1 could not be written: s3://bucket/run/ cannot"
        ):
            s3.finish()
        monkeypatch.setattr(s3, "steps", lambda: [1, 2])
        with pytest.raises(remote.UnreachableError, match="s3://bucket/run/ cannot be reached"):
            s3.newest_params(state_of(4).params)  # no step is skipped
    assert len(messages) == 1
    assert "\n" not in messages[0]

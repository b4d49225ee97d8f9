"""A saved state is restored bit for bit, and only into a state of the same shapes."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from training.config import CheckpointConfig, TrainingConfig
from training.saved import checkpoint, disk
from training.saved.checkpoint import Checkpoints
from training.saved.steps import SavedSteps
from training.update.spikes import init_guard
from training.update.state import TrainState


def state_of(width: int, step: int = 0, dtype: str = "float16") -> TrainState:
    def init(key: jax.Array) -> dict:
        return {"a": {"kernel": jax.random.normal(key, (2, width))}, "b": jnp.ones(3)}

    state = TrainState.create(init, make_optimizer(OptimConfig()), seed=step, compute_dtype=dtype)
    return state._replace(step=jnp.int32(step))


@pytest.fixture(params=["folder", "objects", *(["given"] if "PASTEL_STORE" in os.environ else [])])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, the same folder as an object store, and PASTEL_STORE, such as s3://bucket/tests."""
    if request.param == "given":
        return f"{os.environ['PASTEL_STORE']}/{secrets.token_hex(4)}"
    return {"folder": "", "objects": "file://"}[request.param] + str(tmp_path)


def steps_in(place: Path | str) -> set[int]:
    with SavedSteps(place) as checkpoints:
        return set(checkpoints.steps())


def assert_same(found: TrainState | None, expected: TrainState) -> None:
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(expected))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def swap_arrays(folder: Path) -> None:
    """Damage that only digests detect: parameters of one step in another."""
    if not folder.joinpath("2").is_dir():
        pytest.skip("files on this disk are swapped")
    (folder / "2" / "params").rename(folder / "old")
    (folder / "1" / "params").rename(folder / "2" / "params")


def test_a_state_comes_back_bit_for_bit(place: str) -> None:
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=7), {"records": "abc"})
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        shapes = jax.eval_shape(lambda: state_of(4))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
        found = checkpoints.resume(lambda: like, {"records": "abc"})
        params = checkpoints.restore_params(state_of(4).params, 7)
    expected = state_of(4, step=7)
    assert_same(found, expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)


def test_averaged_parameters_come_back_and_are_what_is_drawn_with(place: str) -> None:
    state = state_of(4, step=7)
    state = state._replace(ema=jax.tree.map(lambda x: x + 1, state.params))
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        checkpoints.save(state, {})
        checkpoints.finish()
        assert_same(checkpoints.restore(state, 7), state)
        found = checkpoints.newest_params(state.params)
    assert found is not None
    assert found[0] == 7
    jax.tree.map(np.testing.assert_array_equal, found[1], state.ema)


def test_averages_a_guard_and_a_loss_scale_may_begin_and_end_within_a_run(place: str) -> None:
    guard = init_guard(TrainingConfig())
    plain, full = state_of(4, step=7, dtype="float32"), state_of(4, step=7)
    full = full._replace(guard=guard, ema=full.params)
    narrow = full._replace(guard=init_guard(TrainingConfig(spike_window=4)))
    for name, state, like in (
        *(("begin", plain, full), ("end", full, plain)),
        *(("narrow", full, narrow), ("wide", narrow, full)),
    ):
        with Checkpoints(f"{place}/{name}", CheckpointConfig()) as checkpoints:
            checkpoints.save(state, {})
        with Checkpoints(f"{place}/{name}", CheckpointConfig()) as checkpoints:
            assert_same(checkpoints.resume(lambda own=like: own, {}), like)


@pytest.mark.parametrize(("wait_below", "is_waited_for"), [(2**20, True), (0, False)])
def test_training_waits_for_a_small_save_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_below: int, is_waited_for: bool
) -> None:
    """A kill then loses only the updates since the last save."""
    monkeypatch.setattr(checkpoint, "WAIT_BELOW", wait_below)
    events: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(ocp.CheckpointManager, name)

        def call(*words: Any, **more: Any) -> Any:
            result = original(*words, **more)
            events.append(name)
            return result

        return call

    for name in ("save", "wait_until_finished"):
        monkeypatch.setattr(ocp.CheckpointManager, name, watched(name))
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=1), {})
        assert events[-1] == ("wait_until_finished" if is_waited_for else "save")
        assert not is_waited_for or steps_in(tmp_path) == {1}
        checkpoints.settle()
        assert_same(checkpoints.restore(state_of(4), 1), state_of(4, step=1))


def test_without_a_checkpoint_there_is_nothing_to_resume(place: str) -> None:
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        assert checkpoints.resume(lambda: state_of(4), {}) is None


def test_a_checkpoint_of_another_shape_is_refused(place: str) -> None:
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=1), {})
    with (
        Checkpoints(place, CheckpointConfig()) as checkpoints,
        pytest.raises(ValueError, match=r"params/a/kernel is float32\[2,4\], not float32\[2,5\]"),
    ):
        checkpoints.resume(lambda: state_of(5), {})


def test_other_data_is_refused_by_name(place: str) -> None:
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        checkpoints.save(state_of(4, step=1), {"records": "abc"})
    with (
        Checkpoints(place, CheckpointConfig()) as checkpoints,
        pytest.raises(ValueError, match=r"records \(was abc, now def\)"),
    ):
        checkpoints.resume(lambda: state_of(4), {"records": "def"})


def test_a_damaged_step_is_named_and_the_one_before_is_taken(tmp_path: Path, place: str) -> None:
    with Checkpoints(place, CheckpointConfig(keep=0)) as checkpoints:
        for step in (0, 1, 2):
            checkpoints.save(state_of(4, step=step), {})
    swap_arrays(tmp_path)
    messages: list[tuple[str, str]] = []
    with Checkpoints(place, CheckpointConfig(), log=lambda *e: messages.append(e)) as checkpoints:
        assert_same(checkpoints.resume(lambda: state_of(4), {}), state_of(4, step=0))
        assert [event for event, _ in messages] == ["fallback", "fallback"]
        assert "/2 is damaged: params/a/kernel has other bits than were saved" in messages[0][1]
        assert "\n" not in messages[0][1]
        checkpoints.save(state_of(4, step=2), {})  # the step can be saved again
        checkpoints.finish()
        assert_same(checkpoints.restore(state_of(4), 2), state_of(4, step=2))
    assert (tmp_path / "aside-2").is_dir()


def test_where_all_are_damaged_training_does_not_begin_anew(tmp_path: Path, place: str) -> None:
    with Checkpoints(place, CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(4, step=step), {})
    swap_arrays(tmp_path)
    with (
        Checkpoints(place, CheckpointConfig()) as checkpoints,
        pytest.raises(ValueError, match="no checkpoint in .* is undamaged"),
    ):
        checkpoints.resume(lambda: state_of(4), {})
    assert steps_in(place) == {1, 2}


def test_parameters_alone_are_checked_too(tmp_path: Path, place: str) -> None:
    with Checkpoints(place, CheckpointConfig(keep=0)) as checkpoints:
        for step in (0, 1, 2):
            checkpoints.save(state_of(4, step=step), {})
    swap_arrays(tmp_path)
    with SavedSteps(place) as checkpoints:
        with pytest.raises(ValueError, match="a/kernel has other bits"):
            checkpoints.restore_params(state_of(4).params, 2)
        found = checkpoints.newest_params(state_of(4).params)
    assert found is not None
    assert found[0] == 0
    assert steps_in(place) == {0, 1, 2}  # a reader does not change them


def test_keeping_none_means_keeping_all(place: str) -> None:
    with Checkpoints(place, CheckpointConfig(keep=0)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(4, step=step), {})
    assert steps_in(place) == {1, 2}


def test_only_the_newest_and_the_best_are_kept(place: str) -> None:
    def kept(name: str, keep_best: str) -> set[int]:
        config = CheckpointConfig(keep=1, keep_best=keep_best)
        with Checkpoints(f"{place}/{name}", config) as checkpoints:
            for step, value in ((1, 2.0), (2, 5.0), (3, 3.0), (4, 4.0)):
                checkpoints.save(state_of(4, step=step), {}, {"eval/psnr": value})
        return steps_in(f"{place}/{name}")

    assert kept("newest", "") == {4}
    assert kept("lowest", "eval/psnr") == {1, 4}
    assert kept("highest", "-eval/psnr") == {2, 4}


def test_a_pipe_in_a_step_is_not_waited_for(tmp_path: Path) -> None:
    """Neither in place of its JSON, nor of its arrays, nor of orbax's own files."""
    with Checkpoints(tmp_path / "a", CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(4, step=step), {})
    for number, path in enumerate(p for p in (tmp_path / "a" / "2").rglob("*") if p.is_file()):
        copy, messages = tmp_path / str(number), list[str]()
        shutil.copytree(tmp_path / "a", copy)
        pipe = copy / path.relative_to(tmp_path / "a")
        pipe.unlink()
        os.mkfifo(pipe)
        tell = lambda _, text, messages=messages: messages.append(text)  # noqa: E731
        try:
            with Checkpoints(copy, CheckpointConfig(), tell) as checkpoints:
                assert_same(checkpoints.resume(lambda: state_of(4), {}), state_of(4, step=1))
        except ValueError as error:
            messages.append(str(error))
        assert f"{pipe} is not a file, but a pipe" in messages[0]


def test_a_save_that_does_not_fit_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    with Checkpoints(tmp_path, CheckpointConfig(), lambda _, text: messages.append(text)) as them:
        them.save(state_of(4, step=1), {})
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        roomy = disk.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: roomy._replace(free=100_000))
        them.save(state_of(4, step=2), {})
        assert messages == [
            "the checkpoint of step 2 could not be written: No space left on device: 0.0 MB to "
            "write, 0.1 MB free; older steps are as they were (1)"
        ]
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        monkeypatch.undo()
        them.save(state_of(4, step=3), {})
        assert them.steps() == [1, 3]
        assert_same(them.resume(lambda: state_of(4), {}), state_of(4, step=3))


def test_the_rest_of_a_failed_save_is_removed_though_late_writes_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, late = tmp_path / "7.orbax-checkpoint-tmp-0" / "params", iter(range(3 * disk.SWEEPS))

    def fail(*_: Any, **__: Any) -> None:
        half.mkdir(parents=True)
        raise OSError("No space left on device")

    def sleep(_: float) -> None:
        if next(late, None) is not None:
            half.mkdir(parents=True, exist_ok=True)

    with Checkpoints(tmp_path, CheckpointConfig(), lambda *_: None) as them:
        them.save(state_of(4, step=1), {})
        monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
        monkeypatch.setattr(disk.time, "sleep", sleep)
        them.save(state_of(4, step=7), {})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]

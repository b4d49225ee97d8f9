"""How a run reacts to faults, and that a replay reacts in the same way."""

import contextlib
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config import from_yaml
from optim.config import OptimConfig
from training import exits
from training.config import CheckpointConfig, OnSpike, ParallelConfig, RunConfig, TrainingConfig
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.recipe import BatchAt, Recipe
from training.reports import logbook, metrics
from training.saved import checkpoint, copies
from training.saved.disk import FolderSteps
from training.saved.steps import SavedSteps
from training.session import train
from training.skips import Skips
from training.update.shared import Programs
from training.update.state import TrainState

TRAINING = TrainingConfig(
    steps=40, batch_size=4, spike_window=8, rollback_batches=2, log_every=100, bad_update_budget=3
)
CHECKPOINT = CheckpointConfig(every=10, keep=0)


OPTIM = OptimConfig(learning_rate=1e-2, warmup_steps=0, decay_fraction=0.0)
SHARED = Programs()
"""Compiled programs of all Worlds. That sharing changes no bit is tested in test_shared.py."""


class World:
    """Data with poisoned batches, and a model of four numbers."""

    def __init__(self, folder: Path, bad: dict[int, float], training: TrainingConfig = TRAINING):
        self.folder, self.bad, self.config = folder, bad, RunConfig()
        self.change(training=training, checkpoint=CHECKPOINT)
        self.taken: list[int] = []

    def change(self, **settings: Any) -> None:
        """Change settings, from the next start on."""
        fixed = {"output_dir": str(self.folder), "optim": OPTIM}
        fixed["parallel"] = ParallelConfig(devices=1)
        self.config = dataclasses.replace(self.config, **{**fixed, **settings})

    def batch_at(self, position: int) -> dict[str, np.ndarray]:
        self.taken.append(position)
        target = np.random.default_rng(position).normal(size=(4, 1)).astype(np.float32)
        factor = np.full((4, 1), self.bad.get(position, 1.0), np.float32)
        indices = np.arange(4, dtype=np.int32)
        return {"target": target, "factor": factor, "example_index": indices}

    def open_batches(self, plan: BatchPlan, devices: Devices) -> BatchAt:
        self.plan = plan
        return self.batch_at

    def recipe(self, config: RunConfig) -> Recipe:
        def loss(
            params: dict, batch: dict, keys: jax.Array, context: Any
        ) -> tuple[jax.Array, dict]:
            away = jnp.square(params["kernel"][None] - batch["target"])
            return ((away + 1) * batch["factor"]).mean(), {}

        return Recipe(
            init=lambda key: {"kernel": jax.random.normal(key, (4,))},
            loss=loss,
            open_batches=self.open_batches,
            batch_shapes=lambda size: {},
            depends_on={},
        )

    def run(self, programs: Programs | None = SHARED) -> TrainState:
        return train(self.config, self.recipe, from_yaml, programs)

    def events(self) -> list[tuple[str, int | None]]:
        return [(entry["event"], entry["step"]) for entry in logbook.read(self.folder)]

    def losses(self) -> list[float | None]:
        return [row["train/loss"] for row in metrics.read(self.folder / "metrics.jsonl")]


def cut_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])


def assert_same(one: TrainState, other: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def interrupted_at(n: int, error: BaseException) -> Callable[[Any], Any]:
    """A function that makes an error interrupt a World before it takes batch n for the first
    time."""

    def interrupt(world: World) -> None:
        original = world.batch_at

        def broken(position: int) -> dict[str, np.ndarray]:
            if position == n:
                world.batch_at = original  # type: ignore[method-assign]
                raise error
            return original(position)

        world.batch_at = broken  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            world.run()

    return interrupt


def killed_at(n: int) -> Callable[[Any], Any]:
    """A function that makes a kill interrupt a World before it takes batch n for the first time."""
    return interrupted_at(n, KeyboardInterrupt())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_run_continues_in_an_empty_folder(tmp_path: Path, scheme: str) -> None:
    """The folder is on another machine; the checkpoints are on another disk or in an object
    store."""
    training = dataclasses.replace(TRAINING, on_spike="rollback")
    straight = World(tmp_path / "straight", {15: 100.0}, training)
    expected = straight.run()
    place = f"{scheme}{tmp_path / 'store'}"
    world = World(tmp_path / "run", {15: 100.0}, training)
    world.change(checkpoint=dataclasses.replace(CHECKPOINT, folder=place))
    killed_at(28)(world)
    assert not (world.folder / "checkpoints").exists()
    shutil.rmtree(world.folder)
    copies.fetch(world.folder, place)
    assert [skipped.start for skipped in Skips(world.folder / "skips.json").ranges] == [13]
    assert_same(world.run(), expected)
    assert world.losses() == straight.losses()
    assert [event for event, _ in world.events()] == [
        *("start", "rollback", "skip batches", "stop", "resume", "end")
    ]
    copies.fetch(tmp_path / "third", place)
    fetched = (tmp_path / "third" / "metrics.jsonl").read_bytes()
    assert fetched == (world.folder / "metrics.jsonl").read_bytes()


def test_a_failed_copy_or_save_is_logged_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "skips.json").write_text("[]")
    world = World(tmp_path / "run", {})
    place = f"file://{tmp_path / 'store'}"
    world.change(checkpoint=dataclasses.replace(CHECKPOINT, folder=place))
    batch_at = world.batch_at

    def spoil(position: int) -> dict[str, np.ndarray]:
        """From the first update on, put files where folders must be made."""
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / "run").touch()
        (tmp_path / "store" / "20").touch()
        return batch_at(position)

    monkeypatch.setattr(world, "batch_at", spoil)
    world.run()
    assert [event for event, _ in world.events()] == ["start", "uncopied", "unsaved", "end"]
    with SavedSteps(place) as checkpoints:
        assert checkpoints.steps() == [10, 30, 40]


def test_a_run_that_was_told_to_stop_is_saved_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, world = World(tmp_path / "straight", {}), World(tmp_path / "run", {})
    original = world.batch_at

    def told(position: int) -> dict[str, np.ndarray]:
        if position == 22:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(position)

    world.batch_at = told  # type: ignore[method-assign]
    with pytest.raises(exits.StoppedError):
        world.run()
    (done,) = saved_steps(world) - {10, 20}
    assert done < 40
    assert f"step {done} of 40; the same command resumes" in capsys.readouterr().out
    world.batch_at = original  # type: ignore[method-assign]
    assert_same(world.run(), straight.run())
    assert world.losses() == straight.losses()


def test_nan_is_skipped_and_noted_and_the_run_continues(tmp_path: Path) -> None:
    world = World(tmp_path / "run", {5: np.nan, 6: np.inf})
    state = world.run()
    assert world.events() == [("start", 0), ("skip", 6), ("skip", 7), ("end", 40)]
    assert np.isfinite(state.params["kernel"]).all()
    assert [n for n, loss in enumerate(world.losses()) if loss is None] == [5, 6]
    text = (world.folder / "LOGBOOK.md").read_text()
    assert text.startswith("# Logbook of run\n")
    assert "step 6: **skip** loss nan, gradient norm nan: the update was not made" in text


def saved_steps(world: World) -> set[int]:
    return {int(path.name) for path in (world.folder / "checkpoints").glob("[0-9]*")}


def test_too_many_bad_updates_end_the_run_with_a_way_out_and_lose_nothing(tmp_path: Path) -> None:
    later = dict.fromkeys((31, 33, 35), np.nan)
    world = World(tmp_path / "run", dict.fromkeys(range(12, 20), np.nan) | later)
    with pytest.raises(
        ValueError,
        match="budget 3 bad updates.*step 16 .batch 15.*state of step 17 is saved, and a resume",
    ):
        world.run()
    assert world.events()[-2:] == [("skip", 17), ("abort", 17)]
    assert saved_steps(world) == {10, 17}
    assert len(world.losses()) == 17
    world.change(training=dataclasses.replace(TRAINING, skip_batches=("12:20",)))
    state = world.run()  # the batches are skipped by hand, and the budget is full again
    assert int(state.step) == 40
    assert ("skip batches", 17) in world.events()
    assert world.taken[-23:] == list(range(20, 43))
    assert len(world.losses()) == 40


def test_the_state_of_a_run_that_the_guard_ended_is_that_of_its_good_updates(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "run", dict.fromkeys(range(12, 20), np.nan))
    with pytest.raises(ValueError, match="state of step 17 is saved"):
        world.run()
    good = World(tmp_path / "good", {}, dataclasses.replace(TRAINING, steps=12)).run()
    with SavedSteps(world.folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(good, 17)
    assert_same(found.params, good.params)
    assert_same(found.opt_state, good.opt_state)


def test_a_state_with_a_nan_is_not_saved_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(n: int, state: TrainState) -> TrainState:
        spoilt = {"kernel": state.params["kernel"] * np.nan}
        return state._replace(params=spoilt) if n == 12 else state

    world, recipe = World(tmp_path / "run", {}), World.recipe
    monkeypatch.setattr(
        World, "recipe", lambda *args: dataclasses.replace(recipe(*args), between=between)
    )
    with pytest.raises(ValueError, match=r"step 10: 7 update\(s\) since then are lost$"):
        world.run()
    assert saved_steps(world) == {10}


def test_updates_before_an_error_are_saved(tmp_path: Path) -> None:
    """For example the disk with the data goes away and comes back."""
    straight = World(tmp_path / "straight", {})
    expected = straight.run()
    world = World(tmp_path / "run", {})
    interrupted_at(25, OSError("the disk is away"))(world)
    assert world.events()[-2:] == [("kept", 25), ("abort", 25)]
    assert saved_steps(world) == {10, 20, 25}
    assert_same(world.run(), expected)
    assert world.losses() == straight.losses()


def test_updates_lost_by_an_error_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, save = World(tmp_path / "run", {}), FolderSteps.save

    def save_until_10(self: FolderSteps, step: int, *more: Any) -> None:
        if step > 10:
            raise OSError("No space left on device")
        save(self, step, *more)

    monkeypatch.setattr(FolderSteps, "save", save_until_10)
    interrupted_at(25, OSError("the disk is away"))(world)
    message = "The newest checkpoint is of step 10: 15 update(s) since then are lost"
    assert f"kept: {message}\n" in capsys.readouterr().err


def test_a_spike_rolls_back_and_skips_the_batches_around_it(tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, on_spike="rollback")
    world = World(tmp_path / "run", {25: 100.0}, training)
    state = world.run()
    assert world.events() == [("start", 0), ("rollback", 26), ("skip batches", 20), ("end", 40)]
    again = world.taken[world.taken.index(25) + 1 :]
    assert 20 in again[:3]
    assert [n for n in again if 19 < n < 30][-5:] == [20, 21, 22, 28, 29]
    assert len(world.losses()) == 40
    assert max(loss for loss in world.losses() if loss) < 50

    replay = World(tmp_path / "replay", {25: 100.0}, training)
    assert_same(replay.run(), state)
    assert replay.losses() == world.losses()
    for n in (22, 28, 33):  # before, within and after the spike's neighbourhood
        broken = World(tmp_path / f"broken{n}", {25: 100.0}, training)
        killed_at(n)(broken)
        assert_same(broken.run(), state)
        assert broken.losses() == world.losses()


def test_a_spike_after_a_change_of_the_batch_size_rolls_back_before_it(tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, on_spike="rollback")
    world = World(tmp_path / "run", {21: 100.0}, training)
    killed_at(20)(world)
    world.change(
        training=dataclasses.replace(training, batch_size=8),
        allow_changes=("training.batch_size",),
    )
    world.run()
    assert ("rollback", 22) in world.events()
    assert world.events()[-1] == ("end", 40)


def test_a_spike_before_the_first_checkpoint_is_skipped(tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, on_spike="rollback")
    world = World(tmp_path / "run", {8: 100.0}, training)
    world.run()
    assert world.events() == [("start", 0), ("spike", 9), ("end", 40)]


@pytest.mark.parametrize("on_spike", ["skip", "rollback"])
def test_a_lasting_level_is_accepted_and_noted(tmp_path: Path, on_spike: OnSpike) -> None:
    """For example after a resume whose settings or data raise the loss permanently."""
    training = dataclasses.replace(
        TRAINING, on_spike=on_spike, spike_patience=2, rollback_batches=0, bad_update_budget=5
    )
    world = World(tmp_path / "run", dict.fromkeys(range(15, 60), 20.0), training)
    world.run()
    back = [("rollback", 16), ("skip batches", 10)] * 2 if on_spike == "rollback" else []
    assert world.events() == [
        *[("start", 0), *back, ("spike", 16), ("spike", 17), ("level", 18), ("end", 40)]
    ]


def test_too_many_spikes_end_with_advice_that_helps(tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, spike_patience=30)
    world = World(tmp_path / "run", dict.fromkeys(range(15, 60), 20.0), training)
    with pytest.raises(ValueError, match="training.spike_patience below that budget"):
        world.run()
    with pytest.raises(ValueError, match="training.spike_patience .was 30, now 2"):
        World(world.folder, {}, dataclasses.replace(training, spike_patience=2)).run()
    world.change(
        training=dataclasses.replace(training, spike_patience=2),
        allow_changes=("training.*spike*",),
    )
    world.run()
    assert world.events()[-1] == ("end", 40)


def test_a_run_that_ends_before_its_first_save_is_saved(tmp_path: Path) -> None:
    world = World(tmp_path / "run", dict.fromkeys(range(2, 9), np.nan))
    with pytest.raises(ValueError, match="bad_update_budget 3 .*state of step 7 is saved"):
        world.run()
    assert saved_steps(world) == {7}


def test_rollbacks_have_a_budget(tmp_path: Path) -> None:
    training = dataclasses.replace(
        TRAINING, on_spike="rollback", rollback_batches=0, bad_update_budget=2
    )
    world = World(tmp_path / "run", dict.fromkeys((24, 25, 26, 27), 100.0), training)
    with pytest.raises(ValueError, match="after 2 rollbacks.*state of step 26 is saved"):
        world.run()


@pytest.mark.parametrize(("spike", "is_forgiven"), [(-975, True), (20, False)])
def test_rollbacks_of_long_ago_are_forgiven(tmp_path: Path, spike: int, is_forgiven: bool) -> None:
    """The step of the spike counts, not that of the restored checkpoint."""
    training = dataclasses.replace(
        TRAINING, on_spike="rollback", rollback_batches=0, bad_update_budget=1
    )
    world = World(tmp_path / "run", {25: 100.0}, training)
    world.folder.mkdir()
    skips = Skips(world.folder / "skips.json")
    skips.skip(900, 901, -2980, "spike 1", spike)
    with contextlib.nullcontext() if is_forgiven else pytest.raises(ValueError, match="after 1"):
        world.run()
    assert (("rollback", 26) in world.events()) == is_forgiven


def test_a_save_under_way_is_waited_for_before_the_way_back_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of a large state exists only when its save has ended."""
    monkeypatch.setattr(checkpoint, "WAIT_BELOW", 0)
    real, is_settled = checkpoint.Checkpoints.settle, [False]
    steps, save = checkpoint.Checkpoints.steps, checkpoint.Checkpoints.save

    def settle(self: Any) -> None:
        is_settled[0] = True
        real(self)

    def begin(self: Any, *more: Any) -> None:
        save(self, *more)
        is_settled[0] = False

    def seen(self: Any) -> list[int]:
        return steps(self) if is_settled[0] else []

    monkeypatch.setattr(checkpoint.Checkpoints, "settle", settle)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", begin)
    monkeypatch.setattr(checkpoint.Checkpoints, "steps", seen)
    world = World(tmp_path / "run", {12: 100.0}, dataclasses.replace(TRAINING, on_spike="rollback"))
    world.run()
    assert ("rollback", 13) in world.events()


def test_batches_that_are_skipped_by_hand_are_skipped_once(tmp_path: Path) -> None:
    world = World(
        tmp_path / "run", {}, dataclasses.replace(TRAINING, skip_batches=("3:5", "30:35"))
    )
    killed_at(22)(world)
    world.run()
    straight = World(
        tmp_path / "straight", {}, dataclasses.replace(TRAINING, skip_batches=("3:5", "30:35"))
    )
    straight.run()
    assert straight.taken == [n for n in range(47) if n not in (3, 4, 30, 31, 32, 33, 34)]
    assert world.losses() == straight.losses()


def test_float16_at_the_floor_ends_with_a_way_out(tmp_path: Path) -> None:
    default = TrainingConfig()
    training = dataclasses.replace(
        TRAINING,
        compute_dtype="float16",
        loss_scale_patience=default.loss_scale_patience,
        bad_update_budget=default.bad_update_budget,
    )
    world = World(tmp_path / "run", dict.fromkeys(range(5, 40), np.inf), training)
    with pytest.raises(
        ValueError, match="overflowed in 10 updates .* scale 1, up to step 30.*step 30 is saved"
    ):
        world.run()
    assert saved_steps(world) == {10, 20, 30}


def test_another_batch_size_continues_at_the_example_where_the_run_was(tmp_path: Path) -> None:
    world = World(tmp_path / "run", {}, dataclasses.replace(TRAINING, steps=20))
    world.run()
    for steps, size in ((30, 16), (40, 2)):
        training = dataclasses.replace(TRAINING, steps=steps, batch_size=size)
        world.change(training=training, allow_changes=("training.batch_size",))
        world.run()
    sizes = [4] * 20 + [16] * 10 + [2] * 10
    assert [world.plan.examples(n) for n in range(41)] == [sum(sizes[:n]) for n in range(41)]
    rows = metrics.read(world.folder / "metrics.jsonl")
    assert [row["examples"] for row in rows] == [sum(sizes[:n]) for n in range(1, 41)]

    branch = World(tmp_path / "branch", {}, dataclasses.replace(TRAINING, batch_size=8))
    branch.change(
        branch_from=str(world.folder / "checkpoints" / "20"), allow_changes=("training.batch_size",)
    )
    branch.run()
    assert [branch.plan.examples(n) for n in (19, 20, 21)] == [76, 80, 88]


def test_changed_settings_are_noted(tmp_path: Path) -> None:
    world = World(tmp_path / "run", {})
    killed_at(12)(world)
    other = dataclasses.replace(OPTIM, beta1=0.8)
    world.change(optim=other, allow_changes=("optim.beta1",))
    world.run()
    assert world.events() == [
        *[("start", 0), ("stop", 11), ("resume", 10), ("change", 10), ("end", 40)]
    ]
    entry = logbook.read(world.folder)[3]
    assert entry["changes"] == {"optim.beta1": [0.9, 0.8]}
    assert "optim.beta1 (was 0.9, now 0.8)" in entry["text"]


@pytest.mark.parametrize("place", ["", "{}", "file://{}"], ids=["here", "elsewhere", "objects"])
def test_a_damaged_checkpoint_is_noted_and_the_result_is_the_same(
    tmp_path: Path, place: str
) -> None:
    straight = World(tmp_path / "straight", {}).run()
    world = World(tmp_path / "run", {})
    place = place.format(tmp_path / "store")
    world.change(checkpoint=dataclasses.replace(CHECKPOINT, folder=place))
    killed_at(25)(world)
    folder = tmp_path / "store" if place else world.folder / "checkpoints"
    cut_files(folder / "20" / "params")
    assert_same(world.run(), straight)
    assert ("fallback", None) in world.events()
    assert len(world.losses()) == 40

"""Drills of checkpoints: flipped bits, truncated and missing files, a full disk.

python -m pytest -m slow tests/drills    prints each drill's figure at the end
"""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from training.config import CheckpointConfig
from training.saved.checkpoint import Checkpoints
from training.update.state import TrainState

pytestmark = pytest.mark.slow
ABOUT = {"records": "abc"}
OLD, NEW = 3, 7
Figure = Callable[[str, object], None]


def state_at(step: int) -> TrainState:
    def init(key: jax.Array) -> dict:
        keys = jax.random.split(key)
        return {
            "run0": {"kernel": jax.random.normal(keys[0], (3, 16, 24)), "scale": jnp.ones((3, 16))},
            "tokens": jax.random.normal(keys[1], (40, 16)),
        }

    state = TrainState.create(init, make_optimizer(OptimConfig()), seed=step)
    return state._replace(step=jnp.int32(step))


@pytest.fixture(scope="module", params=["", "file://"], ids=["folder", "objects"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Checkpoints in a folder, and in the same folder as an object store."""
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scheme: str) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(f"{scheme}{folder}", CheckpointConfig()) as checkpoints:
        for step in (OLD, NEW):
            checkpoints.save(state_at(step), ABOUT)
    return folder


def outcome(place: str) -> str:
    """Resume from a damaged folder and save again. Returns the outcome; wrong bits fail the
    test."""
    messages: list[str] = []
    with Checkpoints(place, CheckpointConfig(), log=lambda _, text: messages.append(text)) as them:
        found = them.resume(lambda: state_at(0), ABOUT)
        assert found is not None
        step = int(found.step)
        jax.tree.map(np.testing.assert_array_equal, found, state_at(step))
        assert step in (OLD, NEW)
        assert all("\n" not in line for line in messages)
        them.save(state_at(NEW), ABOUT)
        them.save(state_at(NEW + 4), ABOUT)
        them.finish()
    with Checkpoints(place, CheckpointConfig()) as them:
        newest = them.resume(lambda: state_at(0), ABOUT)
        assert newest is not None
        assert int(newest.step) == NEW + 4
        if step == OLD:
            jax.tree.map(
                np.testing.assert_array_equal, them.restore(state_at(0), NEW), state_at(NEW)
            )
    return "harmless" if step == NEW else "step before"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / str(NEW)).rglob("*") if path.is_file())


def copies(whole: Path, tmp_path: Path) -> Iterator[Path]:
    while True:
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        yield folder


def note(record_property: Figure, name: str, counts: dict[str, int]) -> None:
    text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    record_property("figure", f"{name}: {text}")


def test_a_hundred_flipped_bits(
    scheme: str, whole: Path, tmp_path: Path, record_property: Figure
) -> None:
    rng, counts = random.Random(0), {"harmless": 0, "step before": 0}
    sizes = {path.relative_to(whole): path.stat().st_size for path in files_of(whole)}
    for _, folder in zip(range(100), copies(whole, tmp_path), strict=False):
        name = rng.choice(sorted(sizes))  # small files are as likely as large ones
        data = bytearray((folder / name).read_bytes())
        place = rng.randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(data)
        counts[outcome(f"{scheme}{folder}")] += 1
    note(record_property, "100 flipped bits", counts)
    assert sum(counts.values()) == 100


@pytest.mark.parametrize("harm", ["deleted", "cut to half", "emptied"])
def test_each_file_in_turn(
    scheme: str, whole: Path, tmp_path: Path, record_property: Figure, harm: str
) -> None:
    counts = {"harmless": 0, "step before": 0}
    files = [path.relative_to(whole) for path in files_of(whole)]
    for name, folder in zip(files, copies(whole, tmp_path), strict=False):
        path = folder / name
        if harm == "deleted":
            path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] if harm == "cut to half" else b"")
        counts[outcome(f"{scheme}{folder}")] += 1
    note(record_property, f"each of {len(files)} files {harm}", counts)


def test_a_full_disk_leaves_older_steps_and_training_alone(
    tmp_path: Path, record_property: Figure
) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    lines: list[str] = []
    try:
        with Checkpoints(
            disk / "checkpoints", CheckpointConfig(keep=0), log=lambda _, text: lines.append(text)
        ) as them:
            them.save(state_at(1), ABOUT)
            them.finish()
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            them.save(state_at(2), ABOUT)
            with pytest.raises(ValueError, match="step 2 could not be written: No space left"):
                them.finish()
            ballast.unlink()
            them.save(state_at(3), ABOUT)
            them.finish()
            assert them.steps() == [1, 3]
            for step in (1, 3):
                jax.tree.map(
                    np.testing.assert_array_equal, them.restore(state_at(0), step), state_at(step)
                )
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    note(record_property, "a full disk", {"line told": len(lines)})
    assert len(lines) == 1

"""A run continues on other devices with the same examples and almost the same weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recipe
import train
from command_line.parser import parse_config
from config import Config
from tests.entry.test_drills import flags
from tests.entry.test_train import losses, weights

pytestmark = pytest.mark.slow
HALF, STEPS = 20, 40
MESH = "--parallel.mode=mesh"
LAYOUTS = {
    "pmap of 2": ["--parallel.devices=2"],
    "pmap of 4": ["--parallel.devices=4"],
    "mesh of 4 data": ["--parallel.devices=4", MESH],
    "mesh of 4 fsdp": ["--parallel.devices=4", MESH, "--parallel.fsdp=4"],
    "mesh of 2 fsdp × 2 tensor": [
        *("--parallel.devices=4", MESH, "--parallel.fsdp=2", "--parallel.tensor=2"),
    ],
}
ONE = ["--parallel.devices=1"]


class Told:
    """Batches that note their content by update."""

    def __init__(self, batches: Any, given: dict[int, bytes]) -> None:
        self._batches, self._given, self.rows = batches, given, batches.rows

    def at(self, n: int) -> dict[str, np.ndarray]:
        batch = self._batches.at(n)
        self._given[n] = b"".join(batch[name].tobytes() for name in sorted(batch))
        return batch


def run(words: list[str]) -> dict[int, bytes]:
    """Train. Returns the batches by update."""
    given: dict[int, bytes] = {}
    opened = recipe.open_training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "open_training", lambda *w, **m: Told(opened(*w, **m), given))
        train.main(parse_config(Config, words))
    return given


def test_a_run_continues_with_other_devices(
    records_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    def words(folder: Path, layout: list[str]) -> list[str]:
        steps = [f"--training.steps={STEPS}", "--checkpoint.keep=0"]
        return flags(records_folder, folder, *steps, *layout)

    def go_on(source: Path, layout: list[str]) -> float:
        """The weights' relative distance from the straight run's."""
        folder = tmp_path / "-".join([source.name, *"".join(layout).split("--parallel.")])
        shutil.copytree(source, folder)
        shutil.rmtree(folder / "checkpoints" / str(STEPS))
        given = run(words(folder, layout))
        assert given == {n: batch for n, batch in whole.items() if n >= HALF}
        assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
        found = weights(folder, tmp_path / "released" / folder.name)
        away = sum(np.square(found[name] - value).sum() for name, value in aim.items())
        return float(np.sqrt(away / sum(np.square(value).sum() for value in aim.values())))

    straight, mesh = tmp_path / "straight", tmp_path / "mesh"
    whole = run(words(straight, ONE))
    assert sorted(whole) == list(range(STEPS))
    aim = weights(straight, tmp_path / "aim")
    away = {f"1 → {name}": go_on(straight, layout) for name, layout in LAYOUTS.items()}
    last = list(LAYOUTS)[-1]
    run(words(mesh, LAYOUTS[last]))
    away |= {f"{last} → 1": go_on(mesh, ONE), "1 → 1": go_on(straight, ONE)}
    assert away["1 → 1"] == 0
    assert max(away.values()) <= 1e-4
    message = ", ".join(f"{name}: {value:.1e}" for name, value in away.items())
    record_property("figure", f"{HALF} updates with other devices, relative L2: {message}")

"""--branch_from: a new run that continues another run's checkpoint, with another end.

A decay of the learning rate can branch off any earlier step (Hägele et al. 2024, arXiv:2405.18392).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from common import clone
from common.copying import copy_file
from common.files import write_text
from common.settings import SettingsTree
from training.devices.batching import BATCHES
from training.recipe import Run
from training.saved import runs
from training.saved.steps import SavedSteps
from training.skips import read_ranges
from training.update.state import TrainState

MAY_DIFFER = ("branch_from", "optim.decay_*", "optim.final_fraction", "optim.rewarm_*")
"""Settings in which a branch may differ from its source, in addition to those that may differ on
resume."""


def branch(
    source: str,
    run: Run,
    settings: SettingsTree,
    read: runs.Read,
    about: Mapping[str, object],
    like: TrainState,
) -> tuple[TrainState, list[str], list[list[int]]]:
    """(state saved in `source`, a line about it, the batch sizes before it).

    `source` is RUN or RUN/checkpoints/STEP, and `like` has shapes and shardings of the state. The
    folder of `run` gets copies of the metrics and of the skipped batches; RUN is not changed.

    Raises:
        ValueError: the step does not exist, or has other settings, data or shapes.
    """
    other, step = find_step(clone.find(source))
    old = read(other / "config.yaml")
    allowed = (*MAY_DIFFER, *settings["allow_changes"])
    refused = runs.refused(runs.differences(old, settings), allowed)
    if refused:
        raise ValueError(
            f"branch_from {source} is a run with other settings: {runs.describe(refused)}; give "
            f"the same, or add --allow_changes {' '.join(refused)}"
        )
    with SavedSteps(runs.place_of(other, old["checkpoint"]["folder"])) as checkpoints:
        there = checkpoints.steps()
        step = max(there, default=None) if step is None else step
        if step is None or step not in there:
            known = ", ".join(map(str, there)) or "none"
            raise ValueError(f"branch_from {source}: no such checkpoint; there are: {known}")
        saved = checkpoints.about(step)
        if {name: saved.get(name) for name in about} != dict(about):
            raise ValueError(f"branch_from {source} was trained with other data")
        state = checkpoints.restore(like, step)
    if run.devices.is_first:
        _copy_past(other, run.folder, step)
    return state, [f"branched off {other} at step {step}"], saved.get(BATCHES, [])


def find_step(source: Path) -> tuple[Path, int | None]:
    """(run, step), where step is None if `source` names none. Raises ValueError if there is no
    run."""
    is_step = source.parent.name == "checkpoints" and source.name.isdecimal()
    run, step = (source.parent.parent, int(source.name)) if is_step else (source, None)
    if not (run / "config.yaml").is_file():
        raise ValueError(f"branch_from {source} is neither a run nor RUN/checkpoints/STEP")
    return run, step


def _copy_past(run: Path, folder: Path, step: int) -> None:
    """Copy the metrics, of which the tracker will keep rows up to `step`, and the list of batches
    that were skipped up to `step`."""
    if (run / "metrics.jsonl").is_file():
        copy_file(run / "metrics.jsonl", folder / "metrics.jsonl", run)
    if (run / "skips.json").is_file():
        skipped = read_ranges(run / "skips.json")
        kept = [vars(batches) for batches in skipped if batches.step <= step]
        write_text(folder / "skips.json", json.dumps(kept, indent=1) + "\n")

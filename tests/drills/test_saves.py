"""Drills: kills during large saves, and keep_best with slow deletion and two processes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills.test_processes import kill
from tests.entry.test_drills import last_step, saved, start, wait_for
from tests.entry.test_processes import finish
from tests.entry.test_processes import start as start_two
from tests.entry.test_train import losses, tiny
from training.reports import metrics
from training.saved.checkpoint import WAIT_BELOW
from training.saved.steps import SavedSteps

pytestmark = pytest.mark.slow
Figure = Callable[[str, object], None]
STEPS, EVERY, KILLS = 24, 4, 5
# Captions use a few rows of a large table, so the state is large and an update takes no longer.
ROWS, WIDTH, COPIES = 1_600_000, 16, 3  # the weights and adamw's two moments
LARGE = [
    *(
        f"--model.text_vocab_size={ROWS}",
        f"--training.steps={STEPS}",
        f"--checkpoint.every={EVERY}",
    ),
    *("--training.eval_every=0", "--checkpoint.keep=2", "--parallel.devices=1"),
]


def halves(run: Path) -> list[Path]:
    """The folders of saves that are in progress or were interrupted."""
    return list((run / "checkpoints").glob("*tmp*"))


def test_kills_while_a_large_state_is_written_change_no_bit(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def run(folder: Path) -> list[str]:
        return tiny(records_folder, folder, *LARGE)

    process = start(run(straight))
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    size = ROWS * WIDTH * 4 * COPIES
    assert size > WAIT_BELOW
    rng, lost, within = random.Random(2), [0], 0
    for target in sorted(rng.sample(range(EVERY, STEPS - 2), KILLS)):
        before = last_step(killed)
        process = start(run(killed), PYTHONUNBUFFERED="1")
        wait_for(process, killed, target // EVERY * EVERY)
        while not halves(killed) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        out, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, out
        within += bool(halves(killed))
        if "resumed from step " in out:
            lost.append(before - int(out.split("resumed from step ")[1].split()[0]))
    process = start(run(killed))
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    assert losses(killed) == losses(straight)
    assert saved(killed) == saved(straight)
    assert within > 0
    assert max(lost) <= 2 * EVERY  # updates of the interrupted save, and updates during it
    assert not halves(killed)
    record_property(
        "figure",
        f"{KILLS} kills of a run with saves of {size / 1e6:.0f} MB in the background, {within} of "
        f"them within a save: same bits; at most {max(lost)} updates done again",
    )


# Process 0 deletes slowly, as on a slow disk, so the other process sees half-deleted steps.
SLOW = """
import shutil, time
remove = shutil.rmtree
def rmtree(path, *more, **words):
    if str(path).rpartition("/")[2].isdigit():
        time.sleep(0.3)
    remove(path, *more, **words)
shutil.rmtree = rmtree
"""


def test_two_killed_processes_keep_the_best_step_though_deletion_is_slow(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Figure,
) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"))
    run, name = tmp_path / "run", "eval/tone/loss"
    words = [
        *("--training.steps=60", "--checkpoint.every=4", "--training.eval_every=4"),
        *("--checkpoint.keep=1", f"--checkpoint.keep_best={name}", "--grids.every=0"),
        *("--checkpoint.keep_every=24", "--optim.learning_rate=0.05"),
    ]
    for number, target in enumerate((10, 25, 41)):
        both = start_two(records_folder, run, *words)
        wait_for(both[0], run, target)
        kill(both, [[0], [1], [0, 1]][number])
    ends = finish(start_two(records_folder, run, *words), 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    rows = metrics.read(run / "metrics.jsonl")
    scores = {row["step"]: row[name] for row in rows if name in row and row["step"] % 4 == 0}
    best = min(scores, key=lambda step: scores[step])
    with SavedSteps(run / "checkpoints") as checkpoints:
        kept = checkpoints.steps()
        for step in kept:
            checkpoints.digests(step)  # whole
    assert kept == sorted({best, 24, 48, 60})
    record_property(
        "figure",
        f"3 kills of two processes with late deletion: kept {kept}, of which {best} is best",
    )

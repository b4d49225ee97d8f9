"""Runs of two processes that end by themselves: for bad updates, float16's floor, and an error in
one of them. A run saves its last state, and a resume continues from there."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.entry.test_drills import saved
from tests.entry.test_processes import finish, start, start_both
from tests.entry.test_train import TINY, losses

pytestmark = pytest.mark.slow
POISON = 6
"""Updates before the first batch that does harm."""
PATIENCE = 600  # seconds
STEPS = ["--training.steps=14", "--training.eval_every=0", "--checkpoint.every=5"]
SCRIPT = """
    import jax
    import train
    from command_line.parser import run
    from config import Config
    from tests.drills import test_poison as poison

    def break_off(batch):
        if jax.process_index() == 1:
            raise ValueError("shard 3 is damaged")
        return batch

    with poison.poisoned(range({start}, 99), {how}):
        run(train.main, Config, prog="train.py", about="", first=())
"""


@pytest.mark.parametrize("layout", [[], ["--parallel.mode=mesh", "--parallel.fsdp=2"]])
@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [
        (["--training.bad_update_budget=2"], 3, "more than training.bad_update_budget 2 bad"),
        (
            [
                *("--training.compute_dtype=float16", "--training.loss_scale_floor=16384"),
                "--training.loss_scale_patience=2",
            ],
            4,
            "float16 overflowed in 2 updates running at the lowest loss scale 16384",
        ),
    ],
    ids=["budget", "float16"],
)
def test_a_run_of_two_processes_that_ends_for_its_updates_is_saved_and_resumes(
    records_folder: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    limit: list[str],
    most: int,
    reason: str,
    layout: list[str],
) -> None:
    run = tmp_path / "run"
    words = [*TINY, f"--data.records={records_folder}", f"--output_dir={run}", *STEPS, *layout]
    script = textwrap.dedent(SCRIPT).format(start=POISON, how="poison.no_loss")
    ends = finish(start_both("-c", script, *words, *limit), PATIENCE)
    assert [status for status, *_ in ends] == [2, 2], ends
    last = len(losses(run))
    assert POISON < last <= POISON + most + 1  # the next update was dispatched
    for _, _, error in ends:
        assert reason in error.splitlines()[-1]
        assert (
            f"The state of step {last} is saved, and a resume continues" in error.splitlines()[-1]
        )
        assert "Traceback" not in error
    assert saved(run)["step"] == last
    more = ["--allow_changes", "training.*"]
    again = finish(start(records_folder, run, *STEPS, *layout, *limit, *more), PATIENCE)
    assert [status for status, *_ in again] == [0, 0], again
    assert [step for step, _ in losses(run)] == list(range(1, 15))
    record_property("figure", f"{reason[:20]}…: both exit 2, step {last} is saved; {layout[:1]}")


def test_an_error_in_one_of_two_processes_names_the_newest_checkpoint(
    records_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run = tmp_path / "run"
    words = [*TINY, f"--data.records={records_folder}", f"--output_dir={run}", *STEPS]
    script = textwrap.dedent(SCRIPT).format(start=POISON, how="change=break_off")
    ends = finish(start_both("-c", script, *words), PATIENCE)
    assert [status for status, *_ in ends] == [3, 2], ends
    assert ends[1][2].splitlines()[-1] == "train.py: shard 3 is damaged"
    assert "another process of this run died" in ends[0][2].splitlines()[-1]
    again = finish(start(records_folder, run, *STEPS), PATIENCE)
    assert [status for status, *_ in again] == [0, 0], again
    assert [step for step, _ in losses(run)] == list(range(1, 15))
    record_property("figure", "an unreadable batch in one of two processes: 3 and 2; resumed")

"""Checkpoints in an object store, continued on another machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train
from command_line.parser import parse_config
from config import Config
from drawing.opening import open_checkpoint
from tests.entry.kills import killed
from tests.entry.test_processes import ROOT, finish, free_port
from tests.entry.test_train import TINY, losses, tiny
from training.saved.steps import SavedSteps


def test_an_empty_folder_resumes_what_another_machine_has_begun(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, store = tmp_path / "run", f"file://{tmp_path}/store"
    words = tiny(
        records_folder, run, f"--checkpoint.folder={store}", "--training.steps=9",
        "--training.eval_every=0",
    )  # fmt: skip
    with killed(monkeypatch):
        train.main(parse_config(Config, words))
    shutil.rmtree(run)

    with pytest.raises(ValueError, match=r"seed \(was 0, now 1\)"):
        train.main(parse_config(Config, [*words, "--seed=1"]))
    shutil.rmtree(run)
    train.main(parse_config(Config, words))
    assert "resumed from step 5" in capsys.readouterr().out
    assert [step for step, _ in losses(run)] == list(range(1, 10))
    with SavedSteps(store) as checkpoints:
        assert checkpoints.steps() == [5, 9]
    assert open_checkpoint(run).step == 9
    assert open_checkpoint(run / "checkpoints" / "5").step == 5


@pytest.mark.slow
def test_two_machines_need_no_common_disk(records_folder: Path, tmp_path: Path) -> None:
    """Each process has a separate folder, and writes its half of the weights."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    store, port = f"file://{tmp_path}/store", free_port()
    words = [*TINY, f"--data.records={records_folder}", f"--checkpoint.folder={store}"]
    cut = ["--training.steps=7", "--parallel.mode=mesh", "--parallel.fsdp=4"]
    meeting = [f"--parallel.coordinator=localhost:{port}", "--parallel.num_processes=2"]
    both = []
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        command = [*words, *cut, *meeting, f"--parallel.process_id={name}", "--output_dir=run"]
        both.append(
            subprocess.Popen(
                [sys.executable, ROOT / "train.py", *command],
                cwd=tmp_path / name,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = finish(both, 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    assert not (tmp_path / "1" / "run").exists()
    shutil.rmtree(tmp_path / "0")

    run = tmp_path / "one"
    train.main(parse_config(Config, [*words, "--training.steps=9", f"--output_dir={run}"]))
    assert [step for step, _ in losses(run)] == list(range(1, 10))
    assert len(list((tmp_path / "store/7/params").rglob("tokens/c/*/*"))) > 4

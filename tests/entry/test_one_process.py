"""Several runs of train.py in one process."""

from pathlib import Path

import pytest

from command_line.parser import parse_config
from config import Config
from tests.entry.test_train import TINY
from training import exits
from training.reports import metrics
from training.update.shared import Programs
from trials.one_process import train_here


@pytest.mark.own_programs
def test_train_here_is_train_py(records_folder: Path, tmp_path: Path) -> None:
    """A run in this process has the rows, the log text and the exit codes of a separate process."""
    flags = [*TINY, f"--data.records={records_folder}", "--training.eval_every=0"]
    flags += ["--training.steps=4", "--checkpoint.every=0", "--parallel.devices=1"]
    programs = Programs()
    for name, more in (("a", "--seed=3"), ("b", "--seed=4")):
        words = [*flags, more, f"--output_dir={tmp_path / name}"]
        assert train_here(words, tmp_path / "log", programs) == exits.FINISHED
    wrong = [*flags, "--optim.beta1=x", f"--output_dir={tmp_path / 'c'}"]
    assert train_here(wrong, tmp_path / "wrong.log", programs) == exits.REFUSED
    assert "beta1" in (tmp_path / "wrong.log").read_text()
    assert "step 4 of 4" in (tmp_path / "log").read_text()
    train_here([*flags, "--seed=4", f"--output_dir={tmp_path / 'alone'}"], tmp_path / "log")
    of_model = lambda row: {k: v for k, v in row.items() if k.startswith(("train/", "eval/"))}  # noqa: E731
    alone, together = (metrics.read(tmp_path / name / "metrics.jsonl") for name in ("alone", "b"))
    assert list(map(of_model, alone)) == list(map(of_model, together))
    assert parse_config(Config, [f"--config={tmp_path / 'b' / 'config.yaml'}"]).seed == 4

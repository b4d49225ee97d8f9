"""Checkpoints in an object store: what another machine makes of it."""

import shutil
from pathlib import Path

import pytest

import train
from config import Config, parse_config
from drawing import open_checkpoint
from tests.entry.test_train import losses, tiny
from training import session
from training.checkpoint import Checkpoints


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
    original = session.fit

    def fit_until_seven(step, state, batch_at, steps, **rest):
        def broken(n: int):
            if n == 7:
                raise KeyboardInterrupt
            return batch_at(n)

        return original(step, state, broken, steps, **rest)

    monkeypatch.setattr(session, "fit", fit_until_seven)
    with pytest.raises(KeyboardInterrupt):
        train.main(parse_config(Config, words))
    monkeypatch.undo()
    shutil.rmtree(run)

    with pytest.raises(ValueError, match=r"seed \(was 0, now 1\)"):
        train.main(parse_config(Config, [*words, "--seed=1"]))
    shutil.rmtree(run)
    train.main(parse_config(Config, words))
    assert "resumed from step 5" in capsys.readouterr().out
    assert [step for step, _ in losses(run)] == list(range(1, 10))
    with Checkpoints(store) as checkpoints:
        assert checkpoints.steps() == [5, 9]
    assert open_checkpoint(run).step == 9
    assert open_checkpoint(run / "checkpoints" / "5").step == 5

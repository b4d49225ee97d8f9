"""training.epochs: the length of a run as passes over the training examples."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import train
from command_line.parser import parse_config
from config import Config
from tests.entry.test_train import losses, tiny
from training.config import RunConfig, TrainingConfig
from training.devices.batching import in_updates
from training.reports import logbook
from vqgan.config import QuantizerConfig
from vqgan.run_config import VQGANRunConfig


def steps(examples: int, **given: Any) -> int:
    length = {"steps": 0, **given} if "epochs" in given else given
    return in_updates(RunConfig(training=TrainingConfig(**length)), examples).training.steps


def test_passes_become_the_least_updates_that_hold_them() -> None:
    assert steps(100, epochs=2.0, batch_size=32) == 7  # 6.25
    assert steps(96, epochs=2.0, batch_size=32) == 6
    assert steps(96, epochs=0.01, batch_size=32) == 1
    assert steps(30, epochs=0.1, batch_size=1) == 3  # in floats 0.1 · 30 is more than 3
    assert steps(7, steps=12) == 12
    assert steps(96, epochs=2.0, batch_size=32, least_steps=10) == 10
    assert steps(96, epochs=9.0, batch_size=32, least_steps=10) == 27
    assert steps(7, steps=12, least_steps=20) == 12


def test_growing_batches_hold_as_many_passes() -> None:
    ramp = ("2:64", "4:128")  # 32, 32, 64, 64, 128, 128, …
    assert steps(96, epochs=2.0, batch_size=32, batch_ramp=ramp) == 4
    assert steps(96, epochs=2.1, batch_size=32, batch_ramp=ramp) == 5
    assert steps(64, epochs=1.0, batch_size=32, batch_ramp=ramp) == 2


def test_resolved_epochs_stay_resolved() -> None:
    config = RunConfig(training=TrainingConfig(steps=0, epochs=3.0, batch_size=4))
    found = in_updates(config, 10)
    assert (found.training.steps, found.training.epochs) == (8, 0.0)
    assert in_updates(found, 99) == found


def test_the_length_given_last_counts(tmp_path: Path) -> None:
    """Flags win over files, later files over earlier ones, and any of them over the default."""
    (tmp_path / "passes.yaml").write_text("training: {epochs: 5}\n")
    (tmp_path / "updates.yaml").write_text("training: {steps: 70}\n")

    def length(*words: str, of: Any = Config) -> tuple[int, float]:
        files = [word.replace("=", f"={tmp_path}/") if "config" in word else word for word in words]
        training = parse_config(of, files).training
        return training.steps, training.epochs

    passes, updates = "--config=passes.yaml", "--config=updates.yaml"
    assert length() == (500, 0)
    assert length("--training.epochs=3") == (0, 3)
    assert length(passes) == length(updates, passes) == (0, 5)
    assert length(passes, updates) == length(updates) == (70, 0)
    assert length(passes, "--training.steps=500") == (500, 0)
    assert length(updates, "--training.epochs", "2", of=VQGANRunConfig) == (0, 2)
    with pytest.raises(ValueError, match="both say how long"):
        length("--training.epochs=3", "--training.steps=500")
    with pytest.raises(ValueError, match="one of them must say"):
        length(passes, "--training.epochs=0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 70, "epochs": 2.0}, "both say how long"),
        ({"steps": 0}, "one of them must say"),
        ({"steps": -1}, "one of them must say"),
        ({"steps": 0, "epochs": -1.0}, "one of them must say"),
    ],
)
def test_one_of_the_two_says_how_long_a_run_is(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**given)


def test_a_trainer_that_counts_no_examples_refuses_passes() -> None:
    with pytest.raises(ValueError, match="cannot count passes"):
        steps(0, epochs=1.0)


def test_a_vqgan_s_start_of_the_codebook_is_checked_when_the_updates_are_known() -> None:
    config = VQGANRunConfig(quantizer=QuantizerConfig(warmup_steps=1000))
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, steps=0, epochs=2.0, batch_size=16)
    )
    assert in_updates(config, 32_000).training.steps == 4000
    with pytest.raises(ValueError, match="quantizer.warmup_steps 1000 leaves none of the 20"):
        in_updates(config, 160)


def test_a_run_counts_passes_says_so_and_continues_to_more(
    records_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tiny(records_folder, tmp_path / "run")
    train.main(parse_config(Config, [*words, "--training.epochs=1"]))  # 31 pictures, 8 at a time
    message = "1 passes over 31 examples are 4 updates"
    assert message in capsys.readouterr().err
    assert message in [one["text"] for one in logbook.read(tmp_path / "run")]
    assert "steps: 4\n" in (tmp_path / "run" / "config.yaml").read_text()
    train.main(parse_config(Config, [*words, "--training.epochs=1"]))
    assert "step 4; a larger --training.epochs trains on" in capsys.readouterr().out
    train.main(parse_config(Config, [*words, "--training.epochs=1.2"]))
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3, 4, 5]
    capsys.readouterr()
    least = ["--training.epochs=1", "--training.least_steps=6"]
    for _ in range(2):
        train.main(parse_config(Config, [*words, *least]))
    shown = capsys.readouterr()
    assert "1 passes over 31 examples are at most training.least_steps: 6 updates" in shown.err
    assert "step 6; a larger --training.least_steps trains on" in shown.out

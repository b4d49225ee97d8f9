"""Guidance and temperature are chosen on the run's captions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train
from command_line.parser import parse_config
from config import Config
from data.records import open_records
from drawing import choosing
from drawing.choosing import Trial, are_blank, best_of, choose_rows, with_concept
from drawing.opening import SAMPLING_FILE, open_checkpoint
from model import transformer
from tests.entry.test_train import tiny


def test_blank_pictures_are_out_and_right_ones_win() -> None:
    hot, mild, cold = Trial(1, 1, 0.3, 0.0), Trial(1.5, 0.7, 0.4, 0.0), Trial(2, 0.4, 0.5, 0.25)
    assert best_of([hot, mild, cold], 0.0) == mild
    assert best_of([hot, mild, cold], 0.3) == cold  # a quarter of the real pictures are blank too
    assert best_of([replace(hot, blank=0.5), cold], 0.0) == cold
    assert best_of([replace(cold, blank=0.0), replace(hot, right=0.5)], 0.0).temperature == 1


def test_a_flat_picture_is_blank() -> None:
    white, drawn = np.full((2, 8, 8, 3), 250, np.uint8)
    white[0, 0] = 240
    drawn[:4] = 0
    assert are_blank(np.stack([white, drawn]), choosing.BLANK).tolist() == [True, False]


def test_held_out_captions_of_the_tune_half_come_first(records_folder: Path) -> None:
    records = open_records(records_folder)
    rows = choose_rows(records, 12)
    assert len(set(rows.tolist())) == 12
    splits = [records.examples[row]["split"] for row in rows]
    held = splits.count("tone")
    assert 0 < held < 8
    assert splits == ["tone"] * held + ["train"] * (12 - held)
    assert with_concept({"caption": " A Fish ", "concept": None})["concept"] == "a fish"
    assert with_concept({"caption": "a fish", "concept": "c1"})["concept"] == "c1"


def test_a_run_is_drawn_from_with_what_was_chosen_for_it(
    records_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(choosing, "PAIRS", ((1.0, 1.0), (2.0, 0.5)))
    monkeypatch.setattr(choosing, "PROMPTS", 4)
    run = tmp_path / "run"
    words = [*tiny(records_folder, run, "--training.steps=2", "--sampling.top_k=7")]
    train.main(parse_config(Config, [*words, "--choose_sampling=true"]))
    output, errors = capsys.readouterr()
    assert "choosing guidance and temperature: 2 × 4 pictures" in errors
    assert output.count("% right") == 2
    assert output.count("(taken)") == 1
    found = open_checkpoint(run).sampling
    assert (found.guidance_scale, found.temperature) in choosing.PAIRS
    assert found.top_k == 7
    train.main(parse_config(Config, [*words, "--choose_sampling=true"]))
    assert "choosing" not in capsys.readouterr().err  # it was chosen before
    (run / SAMPLING_FILE).write_text("step: 2\nsampling: {guidance_scale: much}\n")
    with pytest.raises(ValueError, match=r"sampling.yaml: .* remove the file"):
        open_checkpoint(run)
    (run / SAMPLING_FILE).unlink()
    assert open_checkpoint(run).sampling == parse_config(Config, words).sampling


def test_a_run_whose_pictures_are_gone_keeps_its_settings(
    run_folder: Path, records_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = open_checkpoint(run_folder)
    config = replace(Config(), model=found.model)
    records = open_records(records_folder)
    gone = replace(records, about={**records.about, "source": "gone", "sources": ["gone"]})
    model = transformer.build(found.model)
    choosing.choose_sampling(config, model, gone, run_folder, 0, found.params)
    assert "guidance and temperature are not chosen: the pictures" in capsys.readouterr().err
    assert not (run_folder / SAMPLING_FILE).exists()


def test_a_grid_shows_held_out_captions_and_as_many_training_ones(
    records_folder: Path,
) -> None:
    records = open_records(records_folder)
    captions = records.some_captions(12)
    assert len(set(captions)) == len(captions) == 12
    assert ["tan" in caption for caption in captions] == [True] * 6 + [False] * 6
    held_out = sum("tan" in caption for caption in records.some_captions(1000))
    assert held_out == 8  # all that there are

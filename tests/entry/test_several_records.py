"""train.py on several folders of records, with another folder for validation."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train
from command_line.parser import parse_config
from config import Config
from data.mixture import RecordSets
from data.records import open_records
from drawing.opening import open_checkpoint
from drawing.prompts import known_captions
from recipe import near_targets
from tests.entry.test_train import tiny
from training.reports import metrics


def test_a_run_on_two_folders_resumes_and_holds_to_their_weights(
    records_folder: Path, tmp_path: Path
) -> None:
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(records_folder, copy)
    quick = ["--training.eval_every=0", f"--data.validation={copy}", "--training.eval_captions=2"]

    def go(weights: str, steps: int, *more: str) -> None:
        records = f"[{records_folder}:{weights[0]},{copy}:{weights[1]}]"
        words = tiny(Path(records), run, *quick, f"--training.steps={steps}", *more)
        train.main(parse_config(Config, words))

    go("31", 2)
    row = metrics.read(run / "metrics.jsonl")[-1]
    assert {"eval/tone/loss", "eval/validation/loss"} <= set(row)
    assert {"eval/tone/wrong_caption", "eval/validation/wrong_caption"} <= set(row)
    assert 0 <= row["eval/validation/wrong_caption"] <= 1
    found = open_checkpoint(run)
    assert found.records == str(records_folder)
    assert found.all_records == [str(records_folder), str(copy)]
    assert known_captions(run, found.all_records) == known_captions(run, [str(copy)])
    message = r"weights of records \(was 3:1, now 1:1\); .* or add --allow_changes data\.records"
    with pytest.raises(ValueError, match=message):
        go("11", 4)
    go("11", 4, "--allow_changes=data.records")
    assert metrics.read(run / "metrics.jsonl")[-1]["step"] == 4


def test_near_codes_are_those_of_any_folder(records_folder: Path) -> None:
    """The order of the folders does not matter. Few codes are used, so the others count as dead."""
    whole = open_records(records_folder)
    low, high = (replace(whole, image_tokens=whole.image_tokens % 3 + n) for n in (0, 20))
    one, other = (
        near_targets(RecordSets(sets, (1, 1)), 0.3) for sets in ((low, high), (high, low))
    )
    np.testing.assert_array_equal(one.classes, other.classes)
    np.testing.assert_array_equal(one.shares, other.shares)
    assert {*range(3), *range(20, 23)} >= set(np.unique(one.classes[20:23]).tolist()) > {20, 21, 22}

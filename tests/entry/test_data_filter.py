"""train.py --data.filter: fewer examples, a table in the run's folder; a resume needs the same
rules."""

import shutil
from pathlib import Path

import pytest

import train
from command_line.parser import parse_config
from common.split_names import TRAIN
from config import Config
from data.records import open_records
from recipe import make_recipe
from tests.entry.test_train import tiny
from training.reports import metrics


def test_a_run_trains_on_what_meets_the_rules_and_resumes_with_the_same_ones(
    records_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--training.eval_every=0"]
    records = open_records(records_folder)
    rows = records.rows(TRAIN).tolist()
    left = [
        row
        for row in rows
        if records.examples[row]["caption"] != records.examples[rows[0]]["caption"]
    ]
    rule = f"caption!={records.examples[rows[0]]['caption']}"

    def go(steps: int, *more: str) -> None:
        words = tiny(records_folder, tmp_path / "run", *quick, f"--training.steps={steps}", *more)
        train.main(parse_config(Config, words))

    go(2, "--data.filter", rule)
    said = (tmp_path / "run" / "filter.txt").read_text()
    assert said in capsys.readouterr().out
    assert said.splitlines()[-1].split() == ["left", f"{len(left):,}"]
    assert 0 < len(left) < len(rows)
    with pytest.raises(ValueError, match=r"data\.filter"):
        go(4)
    with pytest.raises(ValueError, match=r"data\.filter"):
        go(4, "--data.filter", "words>=1")
    go(4, "--data.filter", rule)
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 4
    go(6, "--data.filter", "words>=1", "--allow_changes=data.filter")
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6


def test_another_normaliser_is_refused_before_the_run_is_touched(
    records_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(records_folder / "tokenizer", run / "tokenizer")
    (run / "tokenizer" / "pastel.json").write_text('{"normalizer": "dalle_mini"}')
    config = parse_config(Config, tiny(records_folder, run))
    with pytest.raises(ValueError, match=r"normaliser dalle_mini.*resume with the records"):
        make_recipe(config)
    assert [one.name for one in run.iterdir()] == ["tokenizer"]

"""evaluate.py on a tiny run: prompts, gallery, JSON, several runs, one-line errors."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from config import parse_config, run
from data.exam import Selection, choose_gallery, choose_prompts, open_exam
from data.grids import read_png_about
from data.records import Records, open_records
from evaluate import EvaluateConfig, half_width, main, means

FEW = "--pictures=2"


@pytest.fixture
def records(records_folder: Path) -> Records:
    return open_records(records_folder)


def evaluate(capsys: pytest.CaptureFixture, *words: str | Path) -> str:
    main(parse_config(EvaluateConfig, [str(word) for word in words]))
    return capsys.readouterr().out


def test_the_json_holds_scores_beside_chance_and_ceiling(
    run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    report = json.loads(evaluate(capsys, run_folder, "--json", FEW, "--half=all"))
    scores = report["splits"]["tone"]
    assert set(scores) == {"all_top1", "all_top5", "concept", "tone5way", "nn_is_train"}
    assert all(0 <= share <= 1 for share in scores.values())
    assert report["prompts"] == {"tone": 8}
    assert report["gallery"] == 40
    assert report["chance"]["tone"] == pytest.approx(
        {"all_top1": 1 / 40, "all_top5": 5 / 40, "concept": 1 / 8, "tone5way": 1 / 5}
        | {"nn_is_train": 31 / 40}
    )
    assert set(report["ceiling"]["tone"]) == set(scores)


def test_the_table_names_every_question(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    text = evaluate(capsys, run_folder, FEW, "--half=all")
    for word in ("tone: 8 held-out prompts × 2 pictures", "concept", "chance", "ceiling", "±"):
        assert word in text
    assert max(map(len, text.splitlines()[:-1])) <= 120


def test_several_runs_give_a_mean_and_an_interval_over_the_runs(
    run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    step = run_folder / "checkpoints" / "0"
    report = json.loads(evaluate(capsys, run_folder, step, "--json", FEW, "--half=all"))
    one, other = report["runs"].values()
    assert one == other == {"tone": report["splits"]["tone"]}
    assert set(report["interval"]["tone"].values()) == {0.0}


def test_settings_of_the_command_line_change_what_is_drawn(
    run_folder: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    flags = ("--json", FEW, "--half=all", "--temperature=0", "--guidance_scale=1")
    report = json.loads(evaluate(capsys, run_folder, *flags, f"--grid={tmp_path / 'g.png'}"))
    assert report["pictures"] == 2
    prompts = json.loads(read_png_about(tmp_path / "g.png")["prompts"])
    assert sorted(prompts) == [f"tan bar {i}" for i in range(8)]


def test_the_halves_share_no_prompt_and_leave_none_out(records: Records) -> None:
    tune, report, both = (
        choose_prompts(records, "tone", Selection(half=half)).tolist()
        for half in ("tune", "report", "all")
    )
    assert not set(tune) & set(report)
    assert sorted(tune + report) == both == records.rows("tone").tolist()
    few = choose_prompts(records, "tone", Selection(half="all", max_prompts=3)).tolist()
    assert len(few) == 3
    assert set(few) < set(both)


def test_real_pictures_pass_the_exam(records: Records) -> None:
    exam = open_exam(records, 8, Selection(half="all"))
    pictures = exam.gallery.pictures[exam.targets["tone"]]
    scores = means(exam.judge("tone", pictures[:, None]))
    assert scores.pop("nn_is_train") == 0
    assert set(scores.values()) == {1.0}


def test_a_large_gallery_is_thinned_out_but_keeps_the_targets(records: Records) -> None:
    needed = records.rows("tone")
    chosen = choose_gallery(records, needed, 20)
    assert len(chosen) == len(set(chosen.tolist())) == 20
    assert set(needed.tolist()) < set(chosen.tolist())
    assert choose_gallery(records, needed, 1000).tolist() == list(range(40))
    assert choose_gallery(records, needed, 2).tolist() == needed.tolist()
    exam = open_exam(records, 8, Selection(half="all", max_gallery=20))
    assert all(exam.gallery.attributes[i]["split"] == "tone" for i in exam.targets["tone"])


def test_intervals_are_students_over_runs_and_near_normal_over_prompts() -> None:
    assert half_width([0.5, 0.6, 0.7]) == pytest.approx(4.30 * 0.1 / 3**0.5, abs=1e-6)
    prompts = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    expected = 1.96 * np.std([0.5, 1.0] * 50, ddof=1) / 10
    assert half_width(prompts) == pytest.approx(expected, abs=1e-6)
    assert half_width([0.5]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--splits", "tone", "colour"], "no held-out split 'colour'; there are: tone"),
        (["{run}", "--records=nowhere"], "no token records in nowhere"),
        (["nowhere"], "no checkpoint at nowhere"),
        ([], "required: checkpoints"),
        (["{run}", "--pictures=0"], "pictures 0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run_folder: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [word.format(run=run_folder) for word in words]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *argv])
    with pytest.raises(SystemExit, match="2"):
        run(main, EvaluateConfig, prog="python -m evaluate", about="")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_pictures_that_are_gone_are_said_so(records: Records, tmp_path: Path) -> None:
    moved = Records(
        tmp_path / "elsewhere",
        records.about,
        **{
            name: getattr(records, name)
            for name in (
                "image_tokens",
                "text_tokens",
                "text_lengths",
                "caption_offsets",
                "caption_weights",
                "split",
            )
        },
    )
    moved.__dict__["examples"] = records.examples
    with pytest.raises(ValueError, match="cannot be read again"):
        open_exam(moved, 8, Selection(half="all"))

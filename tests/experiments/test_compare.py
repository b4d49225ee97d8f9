"""A run compared with its reference, and the page of all logbooks."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import compare, logbook
from training.reports.logbook import Logbook

ROOT = Path(__file__).parent.parent.parent
REFERENCES = sorted((ROOT / "results" / "references").glob("*.json"))
NOISE = {0: 0.0, 1: 0.02, 2: -0.02}


def make_run(
    folder: Path, seed: int, more: float = 0.0, note: str = "", **settings: object
) -> Path:
    folder.mkdir(parents=True)
    values = {"name": "starter", "seed": seed, "note": note, "optim": {"learning_rate": 0.1}}
    (folder / "config.yaml").write_text(json.dumps(values | settings))
    rows = []
    for step in range(1, 101):
        row = {
            "step": step,
            "hours": step / 1000,
            "train/loss": 3 - step / 100 + NOISE[seed] + more,
        }
        if step % 50 == 0:
            row["eval/tone/loss"] = 4 - step / 100 + NOISE[seed] + more
        rows.append(json.dumps(row) + "\n")
    (folder / "metrics.jsonl").write_text("".join(rows))
    return folder


def test_a_reference_has_means_and_deviations_and_a_run_is_reported_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / str(seed), seed) for seed in NOISE]
    path = tmp_path / "new" / "starter.json"
    compare.main(compare.CompareConfig(tuple(map(str, runs)), write=str(path)))
    found = compare.read_reference(path)
    tone = found["curves"]["eval/tone/loss"]
    assert (found["seeds"], tone["step"]) == (3, [50, 100])
    np.testing.assert_allclose(tone["mean"], [3.5, 3.0])
    np.testing.assert_allclose(tone["sd"], np.std(list(NOISE.values()), ddof=1), atol=1e-5)
    odd = make_run(tmp_path / "odd", 0, more=0.5)
    compare.main(compare.CompareConfig((str(odd),), reference=str(path)))
    output = capsys.readouterr().out
    assert "eval/tone/loss: at update 100 starter stands at 3.000 ± 0.020; yours at 3.500" in output
    assert "deviations above; usually a learning rate that is too high or too low" in output
    compare.main(compare.CompareConfig((str(runs[1]),), reference=str(path)))
    assert capsys.readouterr().out[-31:] == "within 3 deviations of 3 seeds\n"
    steep = make_run(tmp_path / "steep", 1, optim={"learning_rate": 0.3})
    compare.main(compare.CompareConfig((str(steep),), reference=str(path)))
    output = capsys.readouterr().out
    assert output.endswith("settings that differ: optim.learning_rate 0.3 (starter: 0.1)\n")


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_a_committed_reference_is_small_and_belongs_to_settings_that_are_here(path: Path) -> None:
    compare.read_reference(path)
    assert path.stat().st_size < 20_000
    folders = [ROOT / "presets", ROOT / "experiments" / "workloads"]
    assert any((folder / f"{path.stem}.yaml").is_file() for folder in folders)


def test_runs_that_differ_in_more_than_their_seeds_make_no_reference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, optim={"learning_rate": 1})]
    with pytest.raises(ValueError, match=r"differs from .* in optim\.learning_rate"):
        compare.make_reference(runs)
    other = make_run(tmp_path / "c", 0, name="nobody")
    with pytest.raises(
        ValueError, match="no reference for 'nobody'; .* there are: demo_large, hands, quickstart, "
    ):
        compare.main(compare.CompareConfig((str(other),)))
    with pytest.raises(ValueError, match="is not a run's folder"):
        compare.main(compare.CompareConfig((str(tmp_path),)))


def test_all_runs_stand_on_one_page_with_question_change_result_and_outcome(tmp_path: Path) -> None:
    make_run(tmp_path / "base", 0)
    other = make_run(tmp_path / "other", 1, optim={"learning_rate": 0.2})
    Logbook(other).note("question", 0, "is 0.2 | better?")
    logbook.main(logbook.LogbookConfig(str(other), outcome="no"))
    config = logbook.LogbookConfig(str(tmp_path), baseline=str(tmp_path / "base"))
    logbook.main(config)
    rows = (tmp_path / "LOGBOOK.md").read_text().splitlines()
    [line] = [row for row in rows if row.startswith("| other |")]
    assert line == (
        "| other | is 0.2 \\| better? | optim.learning_rate 0.2, seed 1 | 100 | "
        "eval/tone/loss 3.02 | no |"
    )
    [first] = [row for row in rows if row.startswith("| base |")]
    assert "| baseline |" in first
    with pytest.raises(ValueError, match="holds no runs"):
        logbook.main(logbook.LogbookConfig(str(tmp_path / "base" / "none")))


def test_an_update_without_a_loss_is_left_out_of_a_reference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1)]
    whole = compare.make_reference(runs)["curves"]["train/loss"]["step"]
    path = runs[0] / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[whole[2] - 1]["train/loss"] = None  # it was NaN
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare.make_reference(runs)["curves"]["train/loss"]["step"]
    assert found == [step for step in whole if step != whole[2]]

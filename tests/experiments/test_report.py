"""The page of many runs, and the rate that a range test names."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from config import from_yaml
from experiments import report
from svg import Axis, finite
from tests.experiments.test_compare import make_run
from tests.test_extending import PLAIN, RECIPE
from training.config import RunConfig, TrainingConfig
from training.reports import metrics
from training.reports.logbook import Logbook
from training.reports.range_test import find_rate, smooth
from training.session import train


def test_a_page_has_all_runs_and_needs_no_network(tmp_path: Path) -> None:
    for number, rate in enumerate((0.1, 0.2, 0.4)):
        more = 0.1 * number
        made = make_run(tmp_path / str(number), 0, more, optim={"learning_rate": rate})
        Logbook(made).note("skip", 50, "a batch <b>")
        (made / "grids").mkdir()
        (made / "grids" / "step-000100.png").write_bytes(b"png")
    out = tmp_path / "report.html"
    report.main(report.ReportConfig((str(tmp_path),), out=str(out)))
    text = out.read_text()
    HTMLParser().feed(text)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("<details>") == 3
    assert text.count("<polyline") == 3 * 2 * 2 + 3  # two metrics, two axes; parallel coordinates
    assert text.count("<circle") == 3
    assert "a batch &lt;b&gt;" in text
    assert text.count("data:image/png;base64,cG5n") == 3
    first = text.index("3.0000"), text.index("3.1000"), text.index("3.2000")
    assert list(first) == sorted(first)  # the best first
    with pytest.raises(ValueError, match="no run has it; there are eval/tone/loss"):
        report.main(report.ReportConfig((str(tmp_path),), out=str(out), metric="eval/none"))


def test_influence_is_the_variance_between_groups() -> None:
    """Of two settings, one that decides everything and one that is as good as random."""
    runs = [
        report.RunData(
            Path(f"r/{a}{b}"),
            {"a": a, "b": b},
            [{"step": 1, "x": 2.0 * a + 0.1 * b}],
            [],
        )
        for a in (0, 1)
        for b in (0, 1)
    ]
    found = report.influence(runs, "x", ["a", "b"])
    values = np.array([0.0, 0.1, 2.0, 2.1])
    np.testing.assert_allclose(found["a"], 1.0 / values.var(), rtol=1e-6)
    np.testing.assert_allclose(found["b"], 0.0025 / values.var(), rtol=1e-6)
    assert list(found) == ["a", "b"]


def test_a_training_loss_is_smoothed_as_the_page_says() -> None:
    rows = [{"step": i, "train/loss": float(i)} for i in range(100)]
    points = report.smoothed(rows, "step", "train/loss")
    assert points[-1][0] == 99
    assert points[-1][1] == pytest.approx(97.0)
    assert points[0] == (0, 0.0)


def test_axes_place_values_and_lines_keep_their_ends() -> None:
    assert Axis(1, 100, 0, 10, is_log=True).at(10) == 5
    points = finite([(float(i), 1.0) for i in range(1001)] + [(2000.0, float("nan"))])
    assert points[0][0] == 0
    assert points[-1][0] == 1000
    assert len(points) <= 502


def test_the_rate_is_a_tenth_of_the_one_with_the_lowest_loss() -> None:
    rates = np.geomspace(1e-6, 1, 200)
    losses = 5 - np.log10(rates / 1e-6) / 2 + np.where(rates > 0.01, 200 * rates, 0)
    named, lowest = find_rate(rates.tolist(), losses.tolist())
    assert named == pytest.approx(lowest / 10)
    assert 0.008 < lowest < 0.03
    np.testing.assert_allclose(smooth([2.0] * 5), 2.0)
    with pytest.raises(ValueError, match="the loss never fell"):
        find_rate([1.0, 2.0], [1.0, 2.0])


def test_a_run_of_a_range_test_raises_its_rate_to_the_end_and_names_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a bowl: plain descent diverges beyond a rate of 2; nothing ends the run before."""
    config = RunConfig(
        output_dir=str(tmp_path / "run"),
        optim=PLAIN,
        training=TrainingConfig(steps=60, batch_size=4, lr_range_test=True),
    )
    train(config, lambda config: RECIPE, from_yaml)
    rates = [row["schedule/learning_rate"] for row in metrics.read(tmp_path / "run/metrics.jsonl")]
    np.testing.assert_allclose(rates, PLAIN.learning_rate * np.geomspace(1e-3, 100, 60), rtol=1e-4)
    assert "start from a tenth, --optim.learning_rate=" in capsys.readouterr().out
    assert (tmp_path / "run" / "lr_range.svg").read_text().startswith("<svg")

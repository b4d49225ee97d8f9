"""The page about several runs, and the learning rate that a range test names."""

import re
import sys
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.svg import HEIGHT, WIDTH, Axis, Points, finite, parallel, plot
from config import from_yaml
from experiments import report
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
    assert text.count('r="4"') == 3
    assert "a batch &lt;b&gt;" in text
    assert text.count("data:image/png;base64,cG5n") == 3
    first = text.index("3.0000"), text.index("3.1000"), text.index("3.2000")
    assert list(first) == sorted(first)  # the best first
    with pytest.raises(ValueError, match="no run has it; there are eval/tone/loss"):
        report.main(report.ReportConfig((str(tmp_path),), out=str(out), metric="eval/none"))


def test_odd_values_of_a_run_do_not_end_a_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(i), 0, optim={"learning_rate": 0.1 + i}) for i in range(2)]
    make_run(tmp_path / "2", 0, optim={"name": "without a rate"})
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 101, "hours": 1.0, "train/loss": {10**400}, "\\ud800": 1.0}}\n')
    with (runs[1] / "logbook.jsonl").open("w") as file:
        file.write('{"step": 50, "event": "skip", "text": "lone \\udfff", "time": "now"}\n')
    report.main(report.ReportConfig((str(tmp_path),), out=str(tmp_path / "report.html")))
    text = (tmp_path / "report.html").read_text()
    assert text.count("<details>") == 3
    assert "lone ?" in text


def test_influence_is_the_variance_between_groups() -> None:
    """One of the two settings decides everything; the other is random."""
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


class WandbRun:
    """A run like wandb's public API returns it: whole numbers as int, NaN as text."""

    def __init__(self, number: int, name: str) -> None:
        self.id, self.name = f"id{number}", name
        self.loss = 2 - number / 10
        self.config = {"seed": number, "optim": {"learning_rate": 0.1 * 2**number}}

    def scan_history(self) -> Iterator[dict[str, Any]]:
        for step in (10, 20, 30):
            yield {
                "_step": step,
                "_timestamp": 1.7e9,
                "step": step,
                "examples": 8 * step,
                "train/loss": "NaN" if step == 10 else self.loss,
                **({"eval/random/loss": 1} if step == 30 else {}),
            }


def test_a_project_on_wandb_becomes_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    names = ("brisk-sun-1", "same", "same")
    runs = [WandbRun(number, name) for number, name in enumerate(names)]

    def answer(project: str) -> Iterator[WandbRun]:
        asked.append(project)
        return iter(runs)

    api = types.SimpleNamespace(runs=answer)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(Api=lambda: api))
    found = report.wandb_runs("me/pastel")
    assert asked == ["me/pastel"]
    assert [run.name for run in found] == [
        f"pastel/{name}" for name in ("brisk-sun-1", "same id1", "same id2")
    ]
    metric = report.metric_of(found)
    assert metric == "eval/random/loss"
    assert [run.value(metric) for run in found] == [1.0, 1.0, 1.0]
    assert report.differing(found) == ["optim.learning_rate"]
    assert "<td>30</td>" in report.table(found, metric, [])
    assert report.curves(found, "examples", "train/loss").count("<polyline") == 3
    assert "pastel/same id2" in report.page(found, metric)
    assert report.valley(found, metric).count("<circle") == 3
    runs.clear()
    with pytest.raises(ValueError, match="^the wandb project me/pastel has no runs$"):
        report.wandb_runs("me/pastel")


def test_folders_without_runs_are_named(tmp_path: Path) -> None:
    """The notebook passes paths, the command line texts."""
    with pytest.raises(ValueError, match=f"^{tmp_path}: there are no runs"):
        report.read_runs([tmp_path])


def test_runs_of_one_name_are_all_drawn() -> None:
    rows = [{"step": 1, "examples": 8.0, "train/loss": 2.0}]
    runs = [report.RunData(Path(top) / "runs" / "a", {}, rows, ()) for top in ("x", "y")]
    drawn = report.curves(runs, "examples", "train/loss")
    assert all(f">{top}/runs/a</text>" in drawn for top in ("x", "y"))


@pytest.mark.parametrize(
    ("low", "high", "is_log", "expected"),
    [
        (0, 0.1, False, [0, 0.05, 0.1]),
        (1.94, 5.13, False, [2, 3, 4, 5]),
        (32, 3840, False, [1000, 2000, 3000]),
        (0.0005, 0.064, True, [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05]),
        (1e-6, 1, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (0.21, 0.24, True, [0.21, 0.24]),
        (7, 7, False, [7]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(
    low: float, high: float, is_log: bool, expected: list[float]
) -> None:
    assert Axis(low, high, 0, 10, is_log).ticks == pytest.approx(expected)


LINES: dict[str, Points] = {"a": [(0.0005, 123456.0), (0.064, 5.13)], "b <i>": [(0.01, 7.0)]}


@pytest.mark.parametrize(
    "drawn",
    [
        plot(LINES, "optim.learning_rate", "eval/random/loss", log_x=True),
        plot({"one": [(32, 6.94), (3840, 0.9)]}, "examples", "train/loss"),
        parallel(["learning_rate", "decay"], [[0.0311, 0.00101], [0.000453, 0.242]], ["x", "y"]),
    ],
)
def test_no_text_of_a_plot_is_cut_off_or_upon_another(drawn: str) -> None:
    tall = int(re.findall(r'height="(\d+)"', drawn)[0])
    pattern = r'<text x="([\d.]+)" y="([\d.]+)"[^>]*anchor="(\w+)">([^<]*)<'
    boxes = []
    for x, y, anchor, text in re.findall(pattern, drawn):
        wide = 6 * len(text)
        left = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        boxes.append((left, float(y) - 8, left + wide, float(y)))
        assert left >= 0, text
        assert left + wide <= WIDTH, text
        assert float(y) <= tall, text
    for i, (left, top, right, low) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or low <= other[1] or other[3] <= top


def test_a_legend_names_the_lines_below_the_plot() -> None:
    drawn = plot(LINES, "x", "y", log_x=True)
    assert f'height="{HEIGHT + 34}"' in drawn
    assert drawn.count("b &lt;i&gt;</text>") == 1
    assert 'fill="#fff"' in drawn, "a dark page would hide black text"
    assert "<rect x" not in plot({"one": LINES["a"]}, "x", "y"), "one line needs no legend"
    assert drawn.count("<circle") == 3


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
    """On a quadratic loss plain descent diverges beyond a rate of 2. Nothing ends the run
    before."""
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

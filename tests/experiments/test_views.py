"""The table of experiments.views, from runs' files."""

import json
from pathlib import Path

from experiments.views import LOSS, Run, read_losses, table


def test_each_number_of_views_has_its_lowest_and_last_losses(tmp_path: Path) -> None:
    rows = [{"step": 10, LOSS: 3.0}, {"step": 15}, {"step": 20, LOSS: 2.0}, {"step": 30, LOSS: 4.0}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = Run(1, 0, read_losses(path))
    assert one.losses == {10: 3.0, 20: 2.0, 30: 4.0}
    runs = [Run(4, 0, {10: 2.0, 30: 1.0}), one, Run(1, 1, {10: 3.0, 30: 5.0})]
    assert table(runs)[1:] == [
        "| ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 2.500 (2.000, 3.000) | 20, 10 | 4.500 | 2 |",
        "| 4 | 1.000 (1.000) | 30 | 1.000 | 1 |",
    ]

"""The card of a release: model, training, figures, and licences of the data."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from common.files import write_text
from common.json_files import parse_json, read_json, read_list
from data.records import open_records
from drawing.opening import Checkpoint
from evaluation.table import COLUMNS
from model.transformer import count_params

CARD_FILE = "README.md"
"""As a hub shows it."""
MOST_READ = 100_000
"""Examples of the records that are read for their licences."""
UNKNOWN = "The records do not say it. Find it out before you give this away."
TEXT = """---
library_name: pastel
pipeline_tag: text-to-image
license: {license_tag}
---
# {name}

A text-to-image model of {parameters:,} parameters: captions of up to {text_length} text tokens to
{grid} × {grid} image tokens, made with Pastel. It is the transformer, its tokenizer and its VQGAN.

```sh
python generate.py --checkpoint {name} --prompts "worded like its captions" --pictures 9
```

`SHA256SUMS` lists every file. Pastel refuses the folder where one is another than the one released;
`sha256sum -c SHA256SUMS` checks it without Pastel.

## Made with
{made_with}

## Reaches
{reaches}

## Data
{data}
"""


def write_card(
    out: Path,
    name: str,
    checkpoint: Checkpoint,
    licence: str,
    attribution: str,
    figures: Path | None,
) -> bool:
    """Write the card of a checkpoint's release into `out`. `figures`: the output of `python -m
    evaluate RUN --json`. Returns True if the data's licence is known.

    Raises:
        ValueError: `figures` is not such a file.
    """
    known = [] if checkpoint.records is None else licences(checkpoint.records)
    data = [attribution] if attribution else []
    data += [f"Licence of the data: {licence}."] if licence else []
    if known:
        rows = [
            f"| {style or 'all'} | {licence_name} | {count:,} |"
            for (style, licence_name), count in known
        ]
        data.append("\n".join(["| style | licence | pictures |", "| --- | --- | ---: |", *rows]))
    text = TEXT.format(
        license_tag="other",
        name=name,
        parameters=count_params(checkpoint.model),
        text_length=checkpoint.model.text_length,
        grid=checkpoint.model.grid_size,
        made_with=_made_with(checkpoint),
        reaches=_table(figures) if figures else _last_losses(checkpoint),
        data="\n\n".join(data) or UNKNOWN,
    )
    write_text(out / CARD_FILE, text)
    return bool(data)


def licences(records: str) -> list[tuple[tuple[str, str], int]]:
    """(style, licence) of the pictures that name theirs, with how many there are, the most first;
    none where the records are gone."""
    try:
        opened = open_records(records)
        some = [opened.examples[i] for i in islice(range(len(opened)), MOST_READ)]
    except (ValueError, OSError):
        return []
    named = [
        (str(example.get("style", "")), str(example.get("license") or example.get("licence")))
        for example in some
        if example.get("license") or example.get("licence")
    ]
    return Counter(named).most_common(50)


def _made_with(checkpoint: Checkpoint) -> str:
    """Command, commit and devices of a run's last start."""
    path = checkpoint.folder / "environment.json"
    start = (read_list(path) or [{}])[-1] if path.is_file() else {}
    if not start:
        return "It does not say; it was released from another release."
    versions = start.get("versions")
    packages = versions.items() if isinstance(versions, dict) else ()
    commit, devices = start.get("commit") or "unknown", start.get("devices") or "unknown devices"
    return "\n".join(
        [
            f"Commit `{commit}`, on {devices}, {checkpoint.step or 0:,} updates.",
            f"```\npython {start.get('command', '')}\n```",
            ", ".join(f"{name} {version}" for name, version in packages),
        ]
    )


def _last_losses(checkpoint: Checkpoint) -> str:
    """The newest loss of each held-out split in a run's metrics."""
    path = checkpoint.folder / "metrics.jsonl"
    losses: dict[str, float] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"eval/' in line:
                    losses |= _losses(line, path)
    if not losses:
        return (
            "Not measured: `python -m evaluate RUN --json` measures it, `--figures` puts it here."
        )
    rows = [f"| {name} | {loss:.4f} |" for name, loss in losses.items()]
    return "\n".join(["| held-out loss | nats per image token |", "| --- | ---: |", *rows])


def _losses(line: str, path: Path) -> dict[str, float]:
    try:
        row = parse_json(line.encode(), f"a line of {path}")
    except ValueError:  # a line that a kill truncated
        return {}
    named = row.items() if isinstance(row, dict) else ()
    return {
        name.split("/")[1]: float(value)
        for name, value in named
        if name.startswith("eval/") and name.endswith("/loss") and isinstance(value, int | float)
    }


def _table(path: Path) -> str:
    """The tables of an evaluation, in per cent."""
    report = read_json(path)
    names = {"drawn": "splits", "chance": "chance", "ceiling": "ceiling"}
    if "another" in report:  # figures of earlier versions lack it
        names["another"] = "another"
    parts: dict[str, Any] = {row: report.get(name) for row, name in names.items()}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError(f"figures {path} is not what `python -m evaluate RUN --json` prints")
    blocks: list[str] = []
    for split in parts["drawn"]:
        rows: dict[str, Any] = {row: part.get(split, {}) for row, part in parts.items()}
        asked = [name for name in COLUMNS if name in rows["drawn"]]
        lines = [
            f"| {split} | {' | '.join(COLUMNS[name] for name in asked)} |",
            f"| --- | {' | '.join('---:' for _ in asked)} |",
            *(f"| {row} | {_cells(values, asked)} |" for row, values in rows.items()),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(["Per cent of drawn pictures, on held-out captions:", *blocks])


def _cells(values: Mapping[str, Any], asked: list[str]) -> str:
    return " | ".join(f"{100 * values[name]:.1f}" if name in values else "" for name in asked)

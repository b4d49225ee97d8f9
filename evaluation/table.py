"""The report of evaluate.py as text: a table for each split, and what its columns mean."""

from collections.abc import Sequence
from typing import Literal

from evaluation.report import Figures, Report
from evaluation.set_figures import as_lines, legend

HALVES = {"tune": "the tune half", "report": "the report half", "all": "both halves"}
COLUMNS = {
    "all_top1": "is the nearest",
    "all_top5": "among 5 nearest",
    "concept": "right concept",
    "tone5way": "right tone of 5",
    "gender3way": "right gender",
    "style": "right style",
    "style_codes": "style by codes",
    "colour": "right colour",
    "number": "right number",
    "both": "concept and style",
    "nn_is_train": "training copy",
}
"""Question → title of its column."""
LEGEND = {
    "all_top1": "the prompt's own picture is the nearest real one",
    "all_top5": "it is among the 5 nearest",
    "concept": "the nearest real picture shows the prompt's concept",
    "tone5way": "of the five skin tones the prompt's is the nearest",
    "gender3way": "of person, man and woman the prompt's is the nearest",
    "style": "of the styles in which there is a picture of it, the prompt's is the nearest",
    "style_codes": "of all styles, the prompt's uses the picture's codes of the VQGAN the most "
    "(naive Bayes over training pictures)",
    "colour": "of the colours in which there is a picture of it, the prompt's is the nearest",
    "number": "of the numbers of it that are shown, the prompt's is the nearest",
    "both": "concept and style are right",
    "nn_is_train": "the nearest real picture was trained on",
}
YARDSTICKS: dict[Literal["chance", "ceiling", "another"], str] = {
    "chance": "random real pictures",
    "ceiling": "the real pictures, reconstructed by the VQGAN",
    "another": "each real picture among all other real ones, as a good picture that is not a copy",
}
"""Row of the table that drawn pictures are compared with → its explanation."""


def as_text(report: Report) -> str:
    """A table in per cent for each split, and a legend of its columns."""
    lines = []
    for split in report["splits"]:
        count, pictures = report["prompts"][split], report["pictures"]
        chosen = f", the best of {n} by CLIP" if (n := report["candidates"]) else ""
        half = HALVES[report["half"]]
        lines.append(f"{split}: {count} held-out prompts × {pictures} pictures{chosen}, {half}")
        if new := report.get("never_seen", {}).get(split):
            lines.append(
                f"  {new} of them name things that training never showed: expect only chance there"
            )
        lines += [*_table(split, report), ""]
    if "training" in report:
        count = report["training"]["prompts"]["train"]
        lines.append(f"train: {count} training captions × {report['pictures']} pictures")
        lines += [*_table("train", report["training"]), ""]
    lines += as_lines(report["likeness"], report["seen_by"], row)
    over = f"the {len(report['runs'])} runs" if len(report["runs"]) > 1 else "the prompts"
    asked = {q for scores in report["splits"].values() for q in scores}
    columns = "; ".join(f"{COLUMNS[q]}: {LEGEND[q]}" for q in COLUMNS if q in asked)
    yardsticks = "; ".join(f"{name}: {what}" for name, what in YARDSTICKS.items())
    lines.append(
        f"Per cent; in brackets a 95 % interval over {over}. Found among {report['gallery']:,} "
        f"distinct real pictures. {columns}. {yardsticks}. {legend(report['likeness'])}"
    )
    return "\n".join(lines)


def _table(split: str, report: Figures) -> list[str]:
    scores, widths = report["splits"][split], report["interval"][split]
    lines = [row("", [COLUMNS.get(q, q) for q in scores])]
    if len(report["runs"]) > 1:
        for path, by_split in report["runs"].items():
            lines.append(row(path, [percent(by_split[split].get(q)) for q in scores]))
    lines.append(row("drawn", [with_interval(scores[q], widths[q]) for q in scores]))
    for name in YARDSTICKS:
        lines.append(row(name, [percent(report[name][split].get(q)) for q in scores]))
    return lines


def percent(share: float | None) -> str:
    """A share as per cent, one digit after the point."""
    return "–" if share is None else f"{100 * share:.1f}"


def with_interval(share: float, width: float | None) -> str:
    """A share and, in brackets, its interval; no share is below 0 or above 1."""
    if width is None:
        return percent(share)
    low, high = max(share - width, 0.0), min(share + width, 1.0)
    return f"{percent(share)} [{100 * low:.0f}–{100 * high:.0f}]"


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"  {name[-20:]:20}" + "".join(f"{cell:>16}" for cell in cells)

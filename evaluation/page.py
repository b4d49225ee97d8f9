"""The HTML page of evaluate --page: its figures, and for each prompt its own real picture, the
drawn ones, and the real picture nearest to the first of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from common.html_page import document, image, section, table, text
from data.exams.exam import TRAIN, Answers, Exam
from drawing.choosing import Trial
from evaluation.report import Figures, Report
from evaluation.set_figures import COLUMNS as LIKENESS
from evaluation.table import COLUMNS, YARDSTICKS, percent, with_interval

PROMPTS = 60
"""Most prompts with pictures, over all splits."""
PICTURES = 8
"""Most drawn pictures of a prompt."""


@dataclass(frozen=True)
class Shown:
    """A prompt of the page, with its pictures."""

    prompt: str
    real: UInt8[np.ndarray, "y x 3"]
    drawn: UInt8[np.ndarray, "k y x 3"]
    are_right: Sequence[bool]
    """For each drawn picture, True if the nearest real one shows the prompt's concept."""
    nearest: UInt8[np.ndarray, "y x 3"]
    about_nearest: str


def check_is_page(path: Path) -> None:
    """Raise ValueError unless the file is named like an HTML page, and its folder exists."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"page {path}: it is a page; name a .html file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"page {path}: there is no folder {path.absolute().parent}")


def choose_shown(
    exam: Exam, drawn: Mapping[str, UInt8[np.ndarray, "p k y x 3"]], answers: Mapping[str, Answers]
) -> dict[str, list[Shown]]:
    """Split → its first prompts, an equal number for each."""
    share = max(1, PROMPTS // len(drawn))
    return {
        split: list(_shown(exam, split, pictures[:share], answers[split]))
        for split, pictures in drawn.items()
    }


def _shown(
    exam: Exam, split: str, drawn: UInt8[np.ndarray, "p k y x 3"], answers: Answers
) -> Iterator[Shown]:
    gallery, targets = exam.gallery, exam.targets[split][: len(drawn)]
    nearest = gallery.nearest(drawn[:, 0])
    for i, (prompt, target, near) in enumerate(
        zip(exam.prompts(split), targets, nearest, strict=False)
    ):
        about = str(gallery.attributes[near].get("caption", ""))
        origin = "trained on" if gallery.in_training[near] else "held out"
        yield Shown(
            prompt,
            gallery.pictures[target],
            drawn[i, :PICTURES],
            [bool(right) for right in answers["concept"][i, :PICTURES] == 1],
            gallery.pictures[near],
            f"{about} ({origin})",
        )


def page(
    title: str,
    report: Report,
    shown: Mapping[str, Sequence[Shown]],
    trials: Sequence[Trial] = (),
) -> str:
    """The whole page, as HTML, from the figures of make_report."""
    parts = [f"<h1>{text(title)}</h1>", _summary(report)]
    for split in report["splits"]:
        parts.append(section(f"Held-out prompts: {split}", _figures(report, split)))
    if "training" in report:
        parts.append(section("Training captions", _figures(report["training"], TRAIN)))
    parts.append(section(f"Likeness, by {report['seen_by']}", _likeness(report["likeness"])))
    if trials:
        parts.append(section("Guidance and temperature, on the tune half", trial_table(trials)))
    parts += [section(f"Pictures: {split}", _pictures(some)) for split, some in shown.items()]
    return document(title, parts)


def _summary(report: Report) -> str:
    chosen = f", the best of {count} by CLIP" if (count := report["candidates"]) else ""
    return (
        f"<p>{report['pictures']} pictures of each prompt{chosen}; found among "
        f"{report['gallery']:,} distinct real pictures. Per cent, with a 95 % interval.</p>"
    )


def _figures(report: Figures, split: str) -> str:
    scores, widths = report["splits"][split], report["interval"][split]
    rows = [("drawn", *(with_interval(scores[q], widths[q]) for q in scores))]
    for name in YARDSTICKS:
        rows.append((name, *(percent(report[name][split].get(q)) for q in scores)))
    return table(("", *(COLUMNS.get(q, q) for q in scores)), rows)


def _likeness(likeness: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    rows = [
        (f"{split} {name}", *(f"{row[c]:.3f}" if c in row else "–" for c in LIKENESS))
        for split, of_split in likeness.items()
        for name, row in of_split.items()
    ]
    return table(("", *LIKENESS.values()), rows)


def trial_table(trials: Sequence[Trial]) -> str:
    """A table with the shares of right and blank pictures: a row for each guidance, a column for
    each temperature."""
    temperatures = sorted({trial.temperature for trial in trials})
    trial_of = {(trial.guidance_scale, trial.temperature): trial for trial in trials}
    rows = []
    for guidance in sorted({trial.guidance_scale for trial in trials}):
        cells = [_trial(trial_of.get((guidance, temperature))) for temperature in temperatures]
        rows.append((f"guidance {guidance:g}", *cells))
    return table(("", *(f"temperature {one:g}" for one in temperatures)), rows)


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "–"
    blank = f", {100 * trial.blank:.0f} % blank" if trial.blank else ""
    return f"{100 * trial.right:.0f} % right{blank}"


def _pictures(shown: Iterable[Shown]) -> str:
    """A table with a row for each prompt; right pictures have a frame."""
    rows = []
    for row in shown:
        drawn = "".join(
            f"<span class={'right' if right else 'wrong'}>{image(picture)}</span>"
            for picture, right in zip(row.drawn, row.are_right, strict=True)
        )
        rows.append(
            f"<tr><td>{text(row.prompt)}</td><td>{image(row.real)}</td><td>{drawn}</td>"
            f"<td>{image(row.nearest)}</td><td class=faint>{text(row.about_nearest)}</td></tr>"
        )
    heads = "<tr><th>prompt</th><th>its own</th><th>drawn</th><th>nearest to the first</th></tr>"
    return f"<table class=prompts>{heads}{''.join(rows)}</table>" if rows else ""

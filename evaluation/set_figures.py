"""Figures of sets of drawn pictures: Fréchet distance to real ones, diversity, and CLIP score.

The features are shape and colour, as in data/exams/gallery.py. With `--clip FOLDER` they are
CLIP's, and the score of picture and prompt (arXiv:2104.08718) is added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from data.exams.exam import Exam, evenly
from data.exams.gallery import picture_features
from data.exams.set_statistics import diversity, frechet_distance
from drawing.ranking import Ranker, open_ranker

Pictures = UInt8[np.ndarray, "n y x 3"]
Row = dict[str, float]
COLUMNS = {
    "frechet": "Fréchet distance",
    "diversity": "diversity",
    "clip_score": "CLIP score",
}
"""Titles of the figures in the table."""
LEGEND = {
    "frechet": "between drawn and real pictures of these prompts, less is nearer",
    "diversity": "mean distance between two pictures of one prompt, 0 if all are one picture",
    "clip_score": "100 × the cosine between picture and prompt",
}


@dataclass(frozen=True)
class FeatureSpace:
    """The features with which pictures are compared."""

    name: str
    features: Callable[[Pictures], Float[np.ndarray, "n f"]] = picture_features
    ranker: Ranker | None = None


def open_features(clip: str | None) -> FeatureSpace:
    """The features of the CLIP in a folder; without one, shape and colour."""
    if clip is None:
        return FeatureSpace("shape and colour")
    ranker = open_ranker(clip)
    return FeatureSpace(f"the CLIP in {clip}", ranker.image_features, ranker)


def describe_clip(clip: str, pictures: int, candidates: int) -> str:
    """A line that says what evaluate uses a CLIP for."""
    if candidates:
        chosen = f"chooses {pictures} of {candidates} candidates"
        return f"the CLIP in {clip} {chosen}; likeness is by shape and colour"
    measured = "measures likeness and gives a score"
    return f"the CLIP in {clip} {measured}; it chooses no pictures without --candidates"


@dataclass(frozen=True)
class References:
    """The real pictures that the drawn ones of a split are compared with, the same for all runs."""

    prompts: Sequence[str]
    real: Float[np.ndarray, "p f"]
    """The features of the prompts' own pictures."""
    rows: Mapping[str, Row]
    """The figures of random real pictures (chance), and of the prompts' own pictures, reconstructed
    by the VQGAN (ceiling)."""


def measure_real(
    space: FeatureSpace, exam: Exam, split: str, reconstructed: Pictures
) -> References:
    """The references of a split. With few other pictures, fewer random ones are taken."""
    targets = exam.targets[split]
    prompts, real = exam.prompts(split), space.features(exam.gallery.pictures[targets])
    others = np.setdiff1d(np.arange(len(exam.gallery.pictures)), targets)
    by_lot = exam.gallery.pictures[evenly(others, len(targets))]
    pictures = {"chance": by_lot[:, None], "ceiling": reconstructed[:, None]}
    rows = {name: _figures(space, prompts, real, some) for name, some in pictures.items()}
    return References(prompts, real, rows)


def compare(
    space: FeatureSpace, references: References, drawn: UInt8[np.ndarray, "p k y x 3"]
) -> dict[str, Row]:
    """The figures of the drawn pictures, followed by the references' rows. A single prompt has no
    Fréchet distance."""
    figures = _figures(space, references.prompts, references.real, drawn)
    return {"drawn": figures, **references.rows}


def _figures(
    space: FeatureSpace,
    prompts: Sequence[str],
    real: Float[np.ndarray, "p f"],
    pictures: UInt8[np.ndarray, "p k y x 3"],
) -> Row:
    count, per_prompt = pictures.shape[:2]
    flat = space.features(pictures.reshape(-1, *pictures.shape[2:]))
    seen = flat.reshape(count, per_prompt, -1)
    figures: dict[str, float | None] = {"diversity": diversity(seen) if count else None}
    if min(count, len(real)) > 1:  # sets of the same size: a picture of each prompt at a time
        distances = [frechet_distance(seen[:, k], real) for k in range(per_prompt)]
        figures["frechet"] = float(np.mean(distances))
    if space.ranker:
        texts = np.repeat(space.ranker.text_features(prompts[:count]), per_prompt, axis=0)
        figures["clip_score"] = float(100 * (flat * texts).sum(axis=1).mean())
    return {name: round(value, 6) for name, value in figures.items() if value is not None}


def mean_of(runs: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    """The mean of each figure over the runs."""
    return {
        name: {
            figure: round(float(np.mean([run[name][figure] for run in runs])), 6) for figure in row
        }
        for name, row in runs[0].items()
    }


def as_lines(report: Mapping[str, Mapping[str, Row]], space: str, label: Callable) -> list[str]:
    """The lines of a table of all splits; `label(name, cells)` makes a line."""
    columns = _columns(report)
    lines = [f"likeness, by {space}:", label("", [COLUMNS[c] for c in columns])]
    for split, rows in report.items():
        for name, row in rows.items():
            cells = [f"{row[c]:.3f}" if c in row else "–" for c in columns]
            lines.append(label(f"{split} {name}", cells))
    return [*lines, ""]


def legend(report: Mapping[str, Mapping[str, Row]]) -> str:
    """A sentence that explains the columns of the table."""
    return "; ".join(f"{COLUMNS[c]}: {LEGEND[c]}" for c in _columns(report)) + "."


def _columns(report: Mapping[str, Mapping[str, Row]]) -> list[str]:
    return [c for c in COLUMNS if any(c in rows["drawn"] for rows in report.values())]

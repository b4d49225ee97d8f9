"""The figures of evaluate.py as one dictionary, which is printed as a table or as JSON."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from data.exams.exam import TRAIN, Answers, Exam
from evaluation.scores import interval_of_prompts, interval_of_runs, means
from evaluation.set_figures import Row

Scores = dict[str, float]
"""Question → share of right answers in 0..1, or half the width of its interval."""
BySplit = dict[str, Scores]
Run = tuple[str, Mapping[str, Answers]]
"""(path of a checkpoint, the answers about its pictures by split)."""


class Figures(TypedDict):
    """The scores of some splits, with their yardsticks."""

    splits: BySplit
    """Means over the runs."""
    interval: BySplit
    """Half the width of a 95 % interval: over the runs if there are several, else over the
    prompts."""
    chance: BySplit
    ceiling: BySplit
    another: BySplit
    prompts: dict[str, int]
    """Split → number of prompts."""
    runs: dict[str, BySplit]
    """Path of a checkpoint → its scores."""


class Drawing(TypedDict):
    """The settings with which the pictures were drawn."""

    pictures: int
    """Pictures of each prompt."""
    candidates: int
    """Pictures from which CLIP chose them; 0 = it chose none."""
    half: str


class Report(Figures, Drawing, total=False):
    """The figures of the held-out splits, and more about the pictures."""

    gallery: int
    """Number of distinct real pictures."""
    training: Figures
    """The same figures of training captions, if some were drawn."""
    never_seen: dict[str, int]
    """Split → number of prompts with things that training never showed."""
    likeness: dict[str, dict[str, Row]]
    seen_by: str
    """The features with which likeness is measured."""
    pairs: list[dict[str, float]]
    """The trials of guidance and temperature."""


def make_report(
    exam: Exam,
    ceilings: Mapping[str, Answers],
    runs: Sequence[Run],
    drawing: Drawing,
    unseen: Mapping[str, Sequence[str]],
) -> Report:
    """The report without likeness and pairs.

    `ceilings` are the answers about the real pictures reconstructed by the VQGAN, by split.
    `unseen` are the prompts with things that training never showed, by split.
    """
    splits = [split for split in exam.rows if split != TRAIN]
    report: Report = {
        **_figures(exam, ceilings, runs, splits),
        **drawing,
        "gallery": len(exam.gallery.features),
    }
    if TRAIN in exam.rows:
        report["training"] = _figures(exam, ceilings, runs, [TRAIN])
        report["never_seen"] = {split: len(some) for split, some in unseen.items()}
    return report


def _figures(
    exam: Exam, ceilings: Mapping[str, Answers], runs: Sequence[Run], splits: Sequence[str]
) -> Figures:
    report: Figures = {
        "splits": {},
        "interval": {},
        "chance": {},
        "ceiling": {},
        "another": {},
        "prompts": {split: len(exam.rows[split]) for split in splits},
        "runs": {path: {} for path, _ in runs},
    }
    for split in splits:
        scores = [means(answers[split]) for _, answers in runs]
        report["splits"][split] = means({q: [one[q] for one in scores] for q in scores[0]})
        first = runs[0][1][split]
        report["interval"][split] = {
            q: interval_of_runs([one[q] for one in scores])
            if len(runs) > 1
            else interval_of_prompts(first[q])
            for q in scores[0]
        }
        for (path, _), one in zip(runs, scores, strict=True):
            report["runs"][path][split] = one
        report["chance"][split] = means(exam.chance(split))
        report["ceiling"][split] = means(ceilings[split])
        report["another"][split] = means(exam.gallery.without_itself(exam.targets[split]))
    return report

"""The figures of evaluate.py as one dictionary, which is printed as a table or as JSON."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from data.exams.exam import TRAIN, Answers, Exam
from evaluation.judging import Judgement, Yardsticks
from evaluation.scores import interval_of_prompts, interval_of_runs, means
from evaluation.set_figures import Row, mean_of

Scores = dict[str, float]
"""Question → share of right answers in 0..1, or half the width of its interval."""
BySplit = dict[str, Scores]
Run = tuple[str, Judgement]
"""(path of a checkpoint, the judgement of its pictures)."""


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
    yardsticks: Yardsticks,
    runs: Sequence[Run],
    drawing: Drawing,
    unseen: Mapping[str, Sequence[str]],
) -> Report:
    """The report without pairs. `unseen` are the prompts with things that training never showed, by
    split."""
    splits = [split for split in exam.rows if split != TRAIN]
    report: Report = {
        **_figures(exam, yardsticks.ceilings, runs, splits),
        **drawing,
        "gallery": len(exam.gallery.features),
    }
    if TRAIN in exam.rows:
        report["training"] = _figures(exam, yardsticks.ceilings, runs, [TRAIN])
        report["never_seen"] = {split: len(some) for split, some in unseen.items()}
    likeness = [judgement.likeness for _, judgement in runs]
    report["likeness"] = {split: mean_of([run[split] for run in likeness]) for split in exam.rows}
    return report


def _figures(
    exam: Exam, ceilings: Mapping[str, Answers], runs: Sequence[Run], splits: Sequence[str]
) -> Figures:
    """The figures of these splits."""
    figures: Figures = {
        "splits": {},
        "interval": {},
        "chance": {},
        "ceiling": {},
        "another": {},
        "prompts": {split: len(exam.rows[split]) for split in splits},
        "runs": {path: {} for path, _ in runs},
    }
    for split in splits:
        answers = [judgement.answers[split] for _, judgement in runs]
        scores = [means(of_run) for of_run in answers]
        questions = list(scores[0])
        figures["splits"][split] = means({q: [run[q] for run in scores] for q in questions})
        figures["interval"][split] = {
            q: interval_of_runs([run[q] for run in scores])
            if len(runs) > 1
            else interval_of_prompts(answers[0][q])
            for q in questions
        }
        for (path, _), run in zip(runs, scores, strict=True):
            figures["runs"][path][split] = run
        figures["chance"][split] = means(exam.chance(split))
        figures["ceiling"][split] = means(ceilings[split])
        figures["another"][split] = means(exam.gallery.without_itself(exam.targets[split]))
    return figures

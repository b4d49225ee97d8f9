"""The figures of evaluate.py as one dictionary, which is printed as a table or as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.exam import TRAIN, Answers, Exam
from evaluation.scores import interval_of_prompts, interval_of_runs, means

Run = tuple[str, Mapping[str, Answers]]
"""(path of a checkpoint, the answers about its pictures by split)."""


def make_report(
    exam: Exam,
    ceilings: Mapping[str, Answers],
    runs: Sequence[Run],
    settings: Mapping[str, object],
    unseen: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The figures of the held-out splits, the `settings` of drawing, and, if training captions were
    drawn, the same figures of them as `training`.

    `ceilings` are the answers about the real pictures reconstructed by the VQGAN, by split.
    `unseen` are the prompts with things that training never showed, by split.
    """
    splits = [split for split in exam.rows if split != TRAIN]
    report = {
        **_figures(exam, ceilings, runs, splits),
        **settings,
        "gallery": len(exam.gallery.features),
    }
    if TRAIN in exam.rows:
        report["training"] = _figures(exam, ceilings, runs, [TRAIN])
        report["never_seen"] = {split: len(some) for split, some in unseen.items()}
    return report


def _figures(
    exam: Exam, ceilings: Mapping[str, Answers], runs: Sequence[Run], splits: Sequence[str]
) -> dict[str, Any]:
    """The scores of the splits as shares in 0..1, with chance and ceiling. `interval` is half the
    width of a 95 % interval: over the runs if there are several, else over the prompts."""
    report: dict[str, Any] = {
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

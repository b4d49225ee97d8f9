"""Judges the drawn pictures of an exam, and the real pictures that they are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from data.exams.exam import Answers, Exam
from drawing.drawer import Drawer
from evaluation.set_figures import FeatureSpace, References, Row, compare, measure_real

Drawn = UInt8[np.ndarray, "p k y x 3"]
"""Pictures of a split's prompts: [prompt, picture, y, x, 3]."""


@dataclass(frozen=True)
class Yardsticks:
    """The same for all runs: what real pictures reach. All by split."""

    ceilings: Mapping[str, Answers]
    """Answers about the prompts' own pictures, reconstructed by the VQGAN."""
    references: Mapping[str, References]


@dataclass(frozen=True)
class Judgement:
    """The answers about a run's pictures, and their figures beside those of the yardsticks. Both by
    split."""

    answers: Mapping[str, Answers]
    likeness: Mapping[str, Mapping[str, Row]]


def measure_yardsticks(exam: Exam, drawer: Drawer, space: FeatureSpace) -> Yardsticks:
    """The yardsticks of an exam. `drawer` may be any run's: all have the same VQGAN."""
    reconstructed = {split: _reconstruct(exam, drawer, split) for split in exam.rows}
    return Yardsticks(
        ceilings={s: _answers(exam, drawer, s, real[:, None]) for s, real in reconstructed.items()},
        references={s: measure_real(space, exam, s, real) for s, real in reconstructed.items()},
    )


def judge(
    exam: Exam,
    drawer: Drawer,
    drawn: Mapping[str, Drawn],
    space: FeatureSpace,
    yardsticks: Yardsticks,
) -> Judgement:
    """The judgement of the pictures that a run drew, by split."""
    references = yardsticks.references
    return Judgement(
        answers={s: _answers(exam, drawer, s, pictures) for s, pictures in drawn.items()},
        likeness={s: compare(space, references[s], pictures) for s, pictures in drawn.items()},
    )


def _answers(exam: Exam, drawer: Drawer, split: str, pictures: Drawn) -> Answers:
    """The answers about pictures of a split's prompts."""
    answers = exam.judge(split, pictures)
    if exam.styles is None:
        return answers
    image_tokens = drawer.encode_pictures(pictures.reshape(-1, *pictures.shape[2:]))
    by_prompt = image_tokens.reshape(*pictures.shape[:2], -1)
    return {**answers, **exam.judge_tokens(split, by_prompt)}


def _reconstruct(exam: Exam, drawer: Drawer, split: str) -> UInt8[np.ndarray, "p y x 3"]:
    """The real pictures of a split's prompts, reconstructed by the VQGAN."""
    return drawer.decode_tokens(exam.records.image_tokens[exam.rows[split]].astype(np.int32))

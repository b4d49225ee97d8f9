"""Styles told by image tokens."""

from pathlib import Path

import numpy as np
import pytest

from data.exams.exam import Exam
from data.exams.gallery import Gallery
from data.exams.style_codes import PRIOR, StyleCodes, count_codes
from data.records import Records
from tests.data.test_records import write

CODES = 12


def two_styles(folder: Path, names: tuple[str | None, ...] = ("ink", "ink", "oil")) -> Records:
    """Records of three pictures: ink uses the codes 0…3 mostly, oil the codes 8…11."""
    tokens = np.array([[0, 0, 0, 1], [0, 1, 2, 3], [8, 9, 10, 11]], np.int32)
    examples = [
        {"key": str(i), "caption": "a", **({"style": name} if name else {})}
        for i, name in enumerate(names)
    ]
    return write(folder, image_tokens=tokens, examples=examples, splits=["train"] * 3)


@pytest.fixture
def counted(tmp_path: Path) -> StyleCodes:
    records = two_styles(tmp_path / "r")
    counted = count_codes(records, records.rows("train"))
    assert counted is not None
    return counted


def test_the_shares_are_those_of_the_roots_of_the_counts(counted: StyleCodes) -> None:
    ink = np.full(CODES, PRIOR)
    ink[[0, 1, 2, 3]] += [3**0.5 + 1, 1 + 1, 1, 1]
    oil = np.full(CODES, PRIOR)
    oil[8:] += 1
    assert counted.names == ("ink", "oil")
    expected = np.log([ink / ink.sum(), oil / oil.sum()])
    np.testing.assert_allclose(counted.log_shares, expected, rtol=1e-12)


def test_the_most_likely_style_is_the_one_of_bayes_rule(counted: StyleCodes) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CODES, (50, 4))
    for picture, style in zip(tokens, counted.most_likely(tokens), strict=True):
        scores = dict.fromkeys(counted.names, 0.0)
        for code in set(picture.tolist()):
            for name, shares in zip(counted.names, counted.log_shares, strict=True):
                scores[name] += (picture == code).sum() ** 0.5 * shares[code]
        assert style == max(scores, key=lambda name: scores[name])


def test_where_a_code_stands_says_nothing_about_the_style(counted: StyleCodes) -> None:
    tokens = np.random.default_rng(1).integers(0, CODES, (50, 4))
    assert counted.most_likely(tokens[:, ::-1]) == counted.most_likely(tokens)


def test_a_style_that_is_not_asked_or_was_never_shown_has_no_answer(counted: StyleCodes) -> None:
    ink, oil = [0, 1, 2, 3], [8, 9, 10, 11]
    tokens = np.array([[ink, oil]] * 4)
    answers = counted.are_right(tokens, ["ink", "oil", "chalk", None])
    nothing = [np.nan, np.nan]
    np.testing.assert_array_equal(answers, [[1, 0], [0, 1], nothing, nothing])


@pytest.mark.parametrize("names", [("ink", "ink", "ink"), (None, None, None), ("ink", None, "")])
def test_with_fewer_than_two_styles_nothing_is_told(tmp_path: Path, names: tuple) -> None:
    records = two_styles(tmp_path / "r", names)
    assert count_codes(records, records.rows("train")) is None


def test_the_exam_asks_for_the_style_of_each_prompt(tmp_path: Path, counted: StyleCodes) -> None:
    records = two_styles(tmp_path / "named", ("ink", "oil", "oil"))
    pictures = np.zeros((3, 2, 2, 3), np.uint8)
    gallery = Gallery(pictures, list(records.examples), np.ones(3, bool))
    rows = {"tone": np.array([0, 1, 2])}
    exam = Exam(records, gallery, rows, rows, counted)
    answers = exam.judge_tokens("tone", np.asarray(records.image_tokens)[:, None])
    np.testing.assert_array_equal(answers["style_codes"][:, 0], [1, 0, 1])
    assert exam.chance("tone")["style_codes"] == 1 / 2
    without = Exam(records, gallery, rows, rows)
    assert without.judge_tokens("tone", np.zeros((3, 1, 4), int)) == {}
    assert "style_codes" not in without.chance("tone")

"""Scores of drawn pictures: means, and intervals of the means."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Scores = dict[str, float]


def means(answers: Mapping[str, object]) -> Scores:
    """The mean answer to each question, over the pictures to which it applies."""
    values = {name: np.asarray(answer, np.float64) for name, answer in answers.items()}
    return {
        name: round(float(np.nanmean(value)), 6)
        for name, value in values.items()
        if not np.isnan(value).all()
    }


def interval_of_runs(scores: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean, over two or more training seeds."""
    return round(student_t(len(scores)) * float(np.std(scores, ddof=1)) / len(scores) ** 0.5, 6)


def interval_of_prompts(answers: Float[np.ndarray, "p k"]) -> float | None:
    """Half the width of a 95 % interval of the share of right pictures, over similar prompts; None
    for fewer than two prompts.

    It is Wilson's interval (JASA 1927), which is not empty if all pictures are right, as Student's
    would be. Pictures of one prompt are correlated, so they count as fewer independent answers. The
    number follows from the variance between the prompts; it is at least the number of prompts and
    at most the number of pictures.
    """
    asked = ~np.isnan(answers).any(axis=1)
    by_prompt = answers[asked].mean(axis=1, dtype=np.float64)
    prompts = len(by_prompt)
    if prompts < 2:
        return None
    share, spread = by_prompt.mean(), by_prompt.var(ddof=1) / prompts
    variance = share * (1 - share)
    count = np.clip(variance / max(spread, 1e-12), prompts, answers[asked].size)
    z2 = student_t(prompts) ** 2 / count
    centre = (share + z2 / 2) / (1 + z2)
    reach = (z2 * (variance + z2 / 4)) ** 0.5 / (1 + z2)
    return round(float(abs(share - centre) + reach), 6)


def student_t(samples: int) -> float:
    """Student's t of a two-sided 95 % interval for the mean of so many samples."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return float(stdtrit(samples - 1, 0.975))

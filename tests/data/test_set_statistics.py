"""Fréchet distance and diversity equal their definitions."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from data.exams.set_statistics import diversity, frechet_distance


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    spread_a, spread_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = sqrtm(spread_a @ spread_b).real
    away = a.mean(axis=0) - b.mean(axis=0)
    return float(away @ away + np.trace(spread_a + spread_b - 2 * root))


@pytest.mark.parametrize(("n", "m", "features"), [(40, 30, 5), (7, 60, 5), (50, 50, 1), (3, 4, 2)])
def test_the_distance_is_that_of_the_definition(n: int, m: int, features: int) -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(features, features))
    a = rng.normal(size=(n, features)) @ mix + 3
    b = rng.normal(size=(m, features))
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_fewer_pictures_than_features_are_no_trouble() -> None:
    """For points on two orthogonal lines the product of the covariances is 0."""
    a, b = np.zeros((2, 4, 1000))
    a[:, 0], b[:, 1] = [0, 1, 2, 3], [0, 2, 4, 6]
    spread = np.var([0, 1, 2, 3], ddof=1)
    assert frechet_distance(a, b) == pytest.approx(1.5**2 + 3**2 + spread + 4 * spread)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_the_distance_of_a_shift_is_its_square() -> None:
    a = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    assert frechet_distance(a, a + np.float32(2)) == pytest.approx(4 * 6, rel=1e-4)


def test_one_picture_has_no_spread() -> None:
    with pytest.raises(ValueError, match="there are 1 and 3"):
        frechet_distance(np.ones((1, 4)), np.ones((3, 4)))


def test_diversity_is_the_mean_over_pairs_of_one_prompt() -> None:
    features = np.random.default_rng(0).normal(size=(5, 4, 7))
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    pairs = [1 - p[i] @ p[j] for p in unit for i in range(4) for j in range(i)]
    assert diversity(features) == pytest.approx(np.mean(pairs))
    assert diversity(np.ones((3, 2, 4))) == pytest.approx(0, abs=1e-12)
    assert diversity(np.ones((3, 1, 4))) is None

"""PSNR and SSIM equal references written with plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqgan import metrics


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    real = random.uniform(-1, 1, (2, 16, 12, 3)).astype(np.float32)
    return real, np.clip(real + 0.3 * random.standard_normal(real.shape), -1, 1).astype(np.float32)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one pair of grey pictures in 0..1, window by window."""
    values = []
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            p, q = (image[y : y + 7, x : x + 7].astype(np.float64).ravel() for image in (a, b))
            (var_p, cov), (_, var_q) = np.cov(p, q)
            top = (2 * p.mean() * q.mean() + 0.01**2) * (2 * cov + 0.03**2)
            bottom = (p.mean() ** 2 + q.mean() ** 2 + 0.01**2) * (var_p + var_q + 0.03**2)
            values.append(top / bottom)
    return float(np.mean(values))


def test_ssim_equals_the_definition(pair):
    grey = [(image / 2 + 0.5) @ np.array(metrics.LUMA) for image in pair]
    expected = [slow_ssim(a, b) for a, b in zip(*grey, strict=True)]
    np.testing.assert_allclose(metrics.ssim(*map(jnp.asarray, pair)), expected, rtol=1e-4)


def test_psnr_equals_the_definition(pair):
    real, other = (image.astype(np.float64) / 2 + 0.5 for image in pair)
    expected = 10 * np.log10(1 / ((real - other) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(metrics.psnr(*map(jnp.asarray, pair)), expected, rtol=1e-5)


def test_equal_pictures_are_perfect(pair):
    real = jnp.asarray(pair[0])
    np.testing.assert_allclose(metrics.ssim(real, real), 1, rtol=1e-4)
    assert (metrics.psnr(real, real) >= 99).all()

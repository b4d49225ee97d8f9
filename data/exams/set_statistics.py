"""Statistics of sets of pictures: the Fréchet distance of two sets, and the diversity of one."""

import numpy as np
from jaxtyping import Float


def frechet_distance(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
    """The squared Fréchet distance between normal distributions fitted to two sets of features.

    |μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½), Heusel et al. 2017, arXiv:1706.08500. It is 0 for
    equal sets, and biased for small ones: compare only sets of the same sizes. With Σ = XᵀX,
    tr (Σa Σb)^½ is the sum of the singular values of Xa Xbᵀ, so no matrix root is needed.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a spread needs two pictures at least; there are {len(a)} and {len(b)}")
    means = [x.mean(axis=0, dtype=np.float64) for x in (a, b)]
    spreads = [(x - mean) / (len(x) - 1) ** 0.5 for x, mean in zip((a, b), means, strict=True)]
    between = np.linalg.svd(_short(spreads[0]) @ _short(spreads[1]).T, compute_uv=False).sum()
    variances = sum(np.square(x).sum() for x in spreads)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + variances - 2 * between))


def _short(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "r f"]:
    """An array with the same XᵀX and at most as many rows as features."""
    return x if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(x, mode="r"))


def diversity(features: Float[np.ndarray, "p k f"]) -> float | None:
    """The mean distance, 1 − cosine, between two pictures of the same prompt; 0 if they are equal.
    None with one picture per prompt."""
    prompts, count, _ = features.shape
    if count < 2:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    total = np.square(unit.sum(axis=1, dtype=np.float64)).sum() - prompts * count
    return float(1 - total / (prompts * count * (count - 1)))

"""Sets of pictures compared as sets: how near to real ones, and how different from one another."""

import numpy as np
from jaxtyping import Float


def frechet_distance(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
    """Squared Fréchet distance between the normal distributions that fit two sets of features.

    |μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½), Heusel et al. 2017, arXiv:1706.08500. It is 0 for
    equal sets, and too large for few pictures: compare only sets of the same sizes. With Σ = XᵀX,
    tr (Σa Σb)^½ is the sum of the singular values of Xa Xbᵀ, so no root of a matrix is needed.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a spread needs two pictures at least; there are {len(a)} and {len(b)}")
    means = [x.mean(axis=0, dtype=np.float64) for x in (a, b)]
    spreads = [(x - mean) / (len(x) - 1) ** 0.5 for x, mean in zip((a, b), means, strict=True)]
    between = np.linalg.svd(_short(spreads[0]) @ _short(spreads[1]).T, compute_uv=False).sum()
    own = sum(np.square(x).sum() for x in spreads)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + own - 2 * between))


def _short(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "r f"]:
    """Rows with the same XᵀX, no more of them than there are features."""
    return x if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(x, mode="r"))


def diversity(features: Float[np.ndarray, "p k f"]) -> float | None:
    """Mean distance, 1 − cosine, between two pictures of one prompt: 0 where all are one picture.
    None for one picture a prompt."""
    prompts, count, _ = features.shape
    if count < 2:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    total = np.square(unit.sum(axis=1, dtype=np.float64)).sum() - prompts * count
    return float(1 - total / (prompts * count * (count - 1)))

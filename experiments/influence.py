"""Which setting of a sweep moved the result most: shares of the variance, and what chance gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SHUFFLES = 2000
"""Random orders of the results, for the share that chance gives."""


def shares(values: Sequence[float], settings: Mapping[str, Sequence[object]]) -> dict[str, float]:
    """Setting → η², the share of the results' variance between groups of runs with the same value,
    largest first; empty if all results are equal. Runs whose result is NaN or infinite are skipped.
    A numeric setting with more than four values is grouped by quartile."""
    results, groups = _differing(values, settings)
    share_of = {
        name: float(_eta_squared(results[None], group)[0]) for name, group in groups.items()
    }
    return dict(sorted(share_of.items(), key=lambda item: -item[1]))


def chances(values: Sequence[float], settings: Mapping[str, Sequence[object]]) -> dict[str, float]:
    """Setting → the share that 95 % of random orders of the results stay below. A larger one is
    more than chance (a permutation test). The orders have a fixed seed."""
    results, groups = _differing(values, settings)
    shuffled = np.random.default_rng(0).permuted(np.tile(results, (SHUFFLES, 1)), axis=1)
    return {
        name: float(np.quantile(_eta_squared(shuffled, group), 0.95))
        for name, group in groups.items()
    }


def _differing(
    values: Sequence[float], settings: Mapping[str, Sequence[object]]
) -> tuple[Float[np.ndarray, " n"], dict[str, Int[np.ndarray, " n"]]]:
    """The finite results, and for each setting the group of each of these runs. Without settings if
    all results are equal."""
    results = np.array(values, float)
    good = np.isfinite(results)
    if not good.any() or not results[good].var():
        return results[good], {}
    kept = {
        name: _groups(
            [value for value, is_good in zip(values_of_setting, good, strict=True) if is_good]
        )
        for name, values_of_setting in settings.items()
    }
    return results[good], kept


def _groups(values: Sequence[Any]) -> Int[np.ndarray, " n"]:
    """The group of each value: the quartile if there are more than four numbers, else the value."""
    if len(set(map(repr, values))) <= 4 or not all(map(is_number, values)):
        return np.unique([repr(value) for value in values], return_inverse=True)[1]
    return np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)


def _eta_squared(
    rows: Float[np.ndarray, "m n"], group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " m"]:
    """The share of each row's variance that lies between the groups."""
    away = rows - rows.mean(axis=1, keepdims=True)
    between = sum(
        (group == value).sum() * away[:, group == value].mean(axis=1) ** 2
        for value in np.unique(group)
    )
    return between / (away**2).sum(axis=1)


def is_number(value: object) -> bool:
    """True for a float or an integer of 64 bits; False for a bool."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return is_whole or isinstance(value, float)

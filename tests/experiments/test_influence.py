"""Shares of the variance that settings explain, against their definition and against chance."""

import math

import numpy as np
import pytest

from experiments.influence import chances, shares


def test_a_share_is_one_minus_the_variance_within_groups() -> None:
    generator = np.random.default_rng(0)
    values, names = generator.normal(size=30), generator.integers(0, 3, 30)
    within = sum(values[names == one].var() * (names == one).sum() for one in range(3)) / 30
    found = shares(values.tolist(), {"name": [f"n{one}" for one in names]})
    assert found["name"] == pytest.approx(1 - within / values.var())


def test_many_numbers_are_grouped_by_quartile_and_failed_runs_are_left_out() -> None:
    rates = [float(rate) for rate in range(40)]
    values = [float(rate // 10) for rate in rates]
    assert shares([*values, math.inf], {"rate": [*rates, 99.0]})["rate"] == pytest.approx(1)


def test_five_of_a_hundred_random_settings_exceed_the_share_of_chance() -> None:
    generator = np.random.default_rng(1)
    settings = {f"s{i}": generator.integers(0, 3, 24).tolist() for i in range(400)}
    values = generator.normal(size=24).tolist()
    found, chance = shares(values, settings), chances(values, settings)
    assert 0.02 < np.mean([found[name] > chance[name] for name in settings]) < 0.09


def test_equal_results_have_no_shares() -> None:
    assert shares([1.0, 1.0, math.inf], {"a": [1, 2, 3]}) == {}
    assert chances([], {"a": []}) == {}

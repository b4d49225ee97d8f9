"""Plans map arrays of another program to ours, and are checked before use."""

from pathlib import Path

import numpy as np
import pytest

from weights.plans import Leaf, Plan, gather, scatter

PATH = Path("theirs")


def turned(array: np.ndarray) -> np.ndarray:
    return array.T


PLAN: Plan = {
    "scale": Leaf(("s",), ()),
    "kernel": Leaf(("k",), (3, 2), False, turned, turned),
    "layers/kernel": Leaf(("0.k", "1.k"), (3, 2), True, turned, turned),
}


def test_scatter_undoes_gather_and_shapes_stay() -> None:
    draw = np.random.default_rng(0)
    theirs = {key: draw.normal(size=(3, 2)) for key in ("k", "0.k", "1.k")} | {"s": np.array(2.0)}
    ours = gather(PATH, dict(theirs), PLAN, np.float64)
    assert ours["scale"].shape == ()
    assert ours["layers/kernel"].shape == (2, 2, 3)
    assert all(array.flags.c_contiguous for array in ours.values())
    back = scatter(PLAN, ours)
    assert back.keys() == theirs.keys()
    for key, array in back.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, theirs[key])


def test_a_key_that_two_of_ours_would_take_is_refused() -> None:
    plan = {"a": Leaf(("x",), (2,)), "b": Leaf(("y", "x"), (2,), True)}
    arrays = {"x": np.zeros(2), "y": np.zeros(2)}
    with pytest.raises(ValueError, match="x would be b and another array of ours as well"):
        gather(PATH, arrays, plan, np.float32)


def test_arrays_that_are_not_the_plans_are_named() -> None:
    with pytest.raises(ValueError, match=r"theirs .* first s: \(1,\) instead of \(\)"):
        gather(PATH, {"s": np.zeros(1)}, {"scale": PLAN["scale"]}, np.float32)
    with pytest.raises(ValueError, match="theirs has s as int64"):
        gather(PATH, {"s": np.array(1)}, {"scale": PLAN["scale"]}, np.float32)

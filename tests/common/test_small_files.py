"""Modules that every package may import: paths in trees, bytes of pixels, filled batches,
checks."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.filling import batches_of, filled
from common.pixels import to_bytes, to_floats
from common.settings import check_least
from common.trees import is_stacked, map_named, named_leaves
from optim.optimizers import STACKS
from optim.shampoo import ShampooState
from optim.soap import SoapState

ROOT = Path(__file__).parents[2]


def test_every_byte_comes_back_from_its_number_in_numpy_and_jax() -> None:
    every = np.arange(256, dtype=np.uint8)
    both: list[Any] = [every, jnp.asarray(every)]
    for bytes_ in both:
        numbers = to_floats(bytes_)
        assert numbers.dtype == np.float32
        assert (float(numbers[0]), float(numbers[-1])) == (-1.0, 1.0)
        np.testing.assert_array_equal(to_bytes(numbers), every)
    np.testing.assert_array_equal(to_bytes(np.array([-3.0, 3.0], np.float32)), [0, 255])


@pytest.mark.parametrize(("size", "total"), [(4, 9), (4, 8), (4, 1), (1, 3), (4, 0)])
def test_batches_have_one_size_and_every_place_counts_once(size: int, total: int) -> None:
    counted = []
    for places, count in batches_of(size, total):
        assert len(places) == size
        assert (places[count:] == total - 1).all()
        counted += places[:count].tolist()
    assert counted == list(range(total))
    assert filled(np.array([0, 5, 9]), 6).tolist() == [0, 5, 5]


def test_a_leaf_has_one_name() -> None:
    tree = {"b": {"run1": [1, 2]}, "a": ShampooState(3, *(None,) * 5)}  # type: ignore[arg-type]
    assert named_leaves(tree) == [("a/step", 3), ("b/run1/[0]", 1), ("b/run1/[1]", 2)]
    assert map_named(lambda name, leaf: f"{name}={leaf}", {"x": {"y": 1}}) == {"x": {"y": "x/y=1"}}


def test_only_arrays_below_a_run_are_stacked() -> None:
    assert all(map(is_stacked, ("run0", "run12/mlp/kernel", "opt_state/[1]/mu/encoder/run0/q")))
    assert not any(map(is_stacked, ("prune0/x", "run/x", "run0a/x", "head/kernel", "statistics/x")))


def test_the_optimizer_s_stacks_are_parts_of_its_state() -> None:
    assert set(STACKS) <= {*ShampooState._fields, *SoapState._fields}


@dataclass(frozen=True)
class Section:
    """A section."""

    size: int = 1
    rate: float = 0.5


def test_a_setting_below_its_least_is_named_with_its_section() -> None:
    check_least(Section(), "part", 0, "size", "rate")
    with pytest.raises(ValueError, match=r"^part\.size must be at least 1, not 0$"):
        check_least(Section(size=0), "part", 1, "size")
    with pytest.raises(ValueError, match=r"^rate cannot be negative, not -1.0$"):
        check_least(Section(rate=-1.0), "", 0, "size", "rate")


def test_an_import_of_checkpoints_changes_nothing_of_the_process() -> None:
    code = """
import logging, sys
before = sys.excepthook, sys.unraisablehook
import training.saved.checkpoint
assert (sys.excepthook, sys.unraisablehook) == before
assert logging.getLogger("asyncio").level == logging.NOTSET
from training.saved import disk
disk.quieten()
hooks = sys.excepthook, sys.unraisablehook
assert hooks != before
disk.quieten()
assert (sys.excepthook, sys.unraisablehook) == hooks
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_few_rows_are_laid_out_for_a_cpu_only_where_the_caller_says_so() -> None:
    sources = [*(ROOT / "model").glob("*.py"), *(ROOT / "vqgan").glob("*.py")]
    assert not [path for path in sources if "default_backend" in path.read_text()]
    assert jax.default_backend() == "cpu"

"""Fixtures: the page is served with the tiny run of tests/entry."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from drawing.studio import Studio, open_studio
from tests.entry.conftest import records_folder as records_folder
from tests.entry.conftest import run_folder as run_folder


@pytest.fixture(scope="module")
def listening(run_folder: Path) -> Studio:
    """A studio with the tiny run and larger weights, so that every text changes every picture. With
    the run's own untrained weights a negative prompt changes almost nothing."""
    studio = open_studio(str(run_folder))
    leaves, tree = jax.tree.flatten(studio.params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    moved = [leaf + jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in pairs]
    return replace(studio, params=jax.tree.unflatten(tree, moved))

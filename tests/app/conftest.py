"""The tiny run of tests/entry serves the page as well."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from studio import Studio, open_studio
from tests.entry.conftest import records_folder as records_folder
from tests.entry.conftest import run_folder as run_folder


@pytest.fixture(scope="module")
def listening(run_folder: Path) -> Studio:
    """The tiny run with other weights, large enough for every text to change every picture. The
    run's own were never trained, and a negative prompt hardly moves them."""
    studio = open_studio(str(run_folder))
    leaves, tree = jax.tree.flatten(studio.params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    moved = [leaf + jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in pairs]
    return replace(studio, params=jax.tree.unflatten(tree, moved))

"""Fixtures: a tiny autoencoder, and copies of other programs' VQGANs that tests may change."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.first_states import create_eagerly
from tests.tiny import TINY_VQGAN
from tests.vqgan.examples import FLAX, GUMBEL, settings
from training.update import shared
from vqgan.config import VQGANConfig


@pytest.fixture(scope="session")
def tiny_vqgan() -> VQGANConfig:
    """16 × 16 pixels, 2 × 2 tokens, 32 codes."""
    return TINY_VQGAN


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of GUMBEL with a yaml beside it."""
    shutil.copy(GUMBEL, tmp_path / "last.safetensors")
    target = {"target": "taming.models.vqgan.GumbelVQ", "params": settings()}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": target}))
    return tmp_path / "last.safetensors"


@pytest.fixture
def flax_folder(tmp_path: Path) -> Path:
    """A copy of vqgan-jax's folder."""
    return Path(shutil.copytree(FLAX, tmp_path / "flax"))


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A folder of flat squares on white, in 40 colours and places."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = np.full((16, 16, 3), 255, np.uint8)
        y, x = random.integers(0, 8, 2)
        pixels[y : y + 8, x : x + 8] = random.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def create_states_eagerly():
    """First states of runs are made without jit, in fixtures of modules too: a jitted one differs
    in last bits, so runs that are compared would begin differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "create", create_eagerly)
        yield

"""Fixtures: a tiny autoencoder, and copies of other programs' VQGANs that tests may change."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.tiny import TINY_VQGAN
from tests.vqgan.examples import FLAX, GUMBEL, settings
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

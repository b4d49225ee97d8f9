"""An autoencoder small enough to build in every test."""

import pytest

from vqgan.config import VQGANConfig


@pytest.fixture(scope="session")
def tiny_vqgan() -> VQGANConfig:
    """16 × 16 pixels, 2 × 2 tokens, 32 codes."""
    return VQGANConfig(
        image_size=16,
        stem_channels=8,
        channels=(8, 16),
        encoder_blocks=(1, 1),
        decoder_blocks=(1, 1),
        latent_channels=4,
        code_dim=4,
        codebook_size=32,
    )

"""The smallest models that have everything."""

from model.config import ModelConfig
from vqgan.config import VQGANConfig

TINY = ModelConfig(
    dim=16,
    encoder_depth=2,
    decoder_depth=2,
    num_heads=2,
    mlp_dim=24,
    text_vocab_size=32,
    text_length=6,
    image_vocab_size=20,
    grid_size=3,
)

TINY_VQGAN = VQGANConfig(
    image_size=16,
    stem_channels=8,
    channels=(8, 16),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    latent_channels=4,
    code_dim=4,
    codebook_size=32,
)
"""16 × 16 pixels, 2 × 2 tokens, 32 codes."""

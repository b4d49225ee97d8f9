"""The smallest model that has everything."""

from model.config import ModelConfig

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

"""Valid values of the transformer's settings: choices of words, and bounds of numbers."""

from typing import Literal, get_args

NormName = Literal["layernorm", "rmsnorm"]
Placement = Literal["preln", "postln", "normformer", "swinv2", "cogview", "subln"]
Block = Literal["serial", "parallel"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "smelu"]
Scores = Literal["dot", "unscaled", "cosine", "qk_norm"]
Positions = Literal["learned", "sinusoidal", "rotary", "none"]
RelativeBias = Literal["none", "offset", "pair"]
Tying = Literal["none", "output", "all"]
Init = Literal["normal", "deepnet", "subln", "palm"]
Remat = Literal["none", "layer", "dots"]
CHOICES = {
    "norm": get_args(NormName),
    "placement": get_args(Placement),
    "block": get_args(Block),
    "activation": get_args(Activation),
    "scores": get_args(Scores),
    "positions": get_args(Positions),
    "relative_bias": get_args(RelativeBias),
    "tying": get_args(Tying),
    "init": get_args(Init),
    "remat": get_args(Remat),
}
"""Setting → the words that it may have."""

SIZES = (
    "dim",
    "encoder_depth",
    "decoder_depth",
    "num_heads",
    "mlp_dim",
    "text_vocab_size",
    "text_length",
    "image_vocab_size",
    "grid_size",
    "sinkhorn_iterations",
)
NOT_NEGATIVE = (
    "decoder_num_heads",
    "num_kv_heads",
    "head_dim",
    "decoder_mlp_dim",
    "grid_rows",
    "position_offset",
    "unroll",
    "base_dim",
)
LARGEST = {
    "encoder_depth": 1024,
    "decoder_depth": 1024,
    "unroll": 1024,
    "sinkhorn_iterations": 64,
    "text_length": 1 << 16,
    "grid_size": 1 << 16,  # a row of any length
    "grid_rows": 1 << 12,
    "position_offset": 1 << 12,
    "text_vocab_size": 1 << 22,
    "image_vocab_size": 1 << 22,
}
"""Setting → its largest value; 2^17 for the others. No published model comes near. A larger number
is a mistake, and gets a message before memory is allocated."""
MOST_PARAMETERS = 2e12
SHARES = ("dropout", "attention_dropout", "activation_dropout")
POSITIVE = ("init_std", "norm_epsilon", "cosine_temperature", "logits_scale", "rotary_base")

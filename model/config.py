"""Configuration of the text-to-image transformer and of sampling from it."""

from dataclasses import dataclass
from typing import Literal, get_args

Norm = Literal["layernorm", "rmsnorm"]
Placement = Literal["preln", "postln", "normformer"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Remat = Literal["none", "layer"]
CHOICES = {
    "norm": get_args(Norm),
    "placement": get_args(Placement),
    "activation": get_args(Activation),
    "remat": get_args(Remat),
}
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
)


@dataclass(frozen=True)
class ModelConfig:
    """A BART-style encoder–decoder from text tokens to image tokens (Lewis et al. 2019,
    arXiv:1910.13461) with the switches that DALL·E mini compared."""

    dim: int = 192
    """Width of the residual stream, in channels."""
    encoder_depth: int = 2
    """Layers of the text encoder."""
    decoder_depth: int = 3
    """Layers of the image decoder."""
    num_heads: int = 4
    """Attention heads; each has dim / num_heads channels."""
    mlp_dim: int = 512
    """Hidden channels of the feed-forward block; with use_glu, 8/3 of dim costs what 4 × dim does
    without."""
    text_vocab_size: int = 2048
    """Entries of the text embedding: at least the tokenizer's."""
    text_length: int = 24
    """Text tokens a caption is padded or cut to."""
    image_vocab_size: int = 1024
    """Classes of the output head: at least the VQGAN's codebook_size."""
    grid_size: int = 8
    """Image tokens along one side of a picture; image_length is its square."""
    norm: Norm = "rmsnorm"
    """layernorm (Ba et al. 2016, arXiv:1607.06450) or rmsnorm (Zhang & Sennrich 2019,
    arXiv:1910.07467), which is cheaper and was the more stable one in DALL·E mini's study."""
    placement: Placement = "preln"
    """Where norms stand in a layer: preln (trains without warm-up; Xiong et al. 2020,
    arXiv:2002.04745), postln (BART), normformer (DALL·E mini; Shleifer et al. 2021,
    arXiv:2110.09456)."""
    activation: Activation = "silu"
    """Non-linearity of the feed-forward block; silu with use_glu is SwiGLU."""
    use_glu: bool = True
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202): better at equal cost in DALL·E mini's
    study."""
    use_bias: bool = False
    """Biases in dense layers: +15 % time and no better in DALL·E mini's study."""
    dropout: float = 0.0
    """Share of residual-branch outputs and embeddings dropped in training."""
    attention_dropout: float = 0.0
    """Share of attention weights dropped in training."""
    activation_dropout: float = 0.0
    """Share of feed-forward hidden units dropped in training."""
    init_std: float = 0.02
    """Standard deviation of initial weights and embeddings."""
    remat: Remat = "none"
    """What is recomputed in the backward pass to save memory: nothing, or each layer."""
    unroll: int = 0
    """Layers laid out per iteration of the scan over layers. 0 = all, which runs faster where depth
    is small; 1 compiles fastest. With remat it is always 1: only a real loop keeps the compiler
    from merging the recomputation away."""

    @property
    def image_length(self) -> int:
        """Image tokens of a picture."""
        return self.grid_size**2

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} {getattr(self, name)!r} is none of {choices}")
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must lie in 0..1, not {getattr(self, name)}")
        if self.unroll < 0 or self.init_std <= 0:
            raise ValueError(
                f"model.unroll {self.unroll} cannot be negative and model.init_std "
                f"{self.init_std} must be positive"
            )
        if self.dim % self.num_heads:
            fix = self.dim // self.num_heads * self.num_heads
            raise ValueError(
                f"model.dim {self.dim} is not a multiple of model.num_heads {self.num_heads}; "
                f"try dim {fix}"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How image tokens are drawn from the model's logits."""

    guidance_scale: float = 2.0
    """Classifier-free guidance ("super conditioning"): logits = unconditional + scale ×
    (conditional − unconditional). 1 = off, at half the cost; small models like 1–3."""
    temperature: float = 0.4
    """Divides the logits before drawing; 0 = greedy."""
    top_k: int = 0
    """Draw only among the k likeliest tokens; 0 = all."""
    top_p: float = 1.0
    """Draw only among the fewest tokens whose probabilities reach p (nucleus sampling, Holtzman et
    al. 2019, arXiv:1904.09751); 1 = all."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"sampling needs temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1, not "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )

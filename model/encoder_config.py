"""Settings of a text encoder that differs from the decoder, such as another program's
(published/encoders.py)."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from common.settings import check_least
from model.choices import (
    Activation,
    Block,
    NormName,
    Placement,
    Positions,
    RelativeBias,
    Scores,
)

OWN = ("causal", "buckets", "bucket_distance")
MOST_BUCKETS = 1 << 12


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of the text encoder only. null = the setting of the same name in model."""

    dim: int | None = None
    """Width. One projection joins another width than the decoder's to its cross-attention."""
    num_heads: int | None = None
    """Attention heads."""
    num_kv_heads: int | None = None
    """Key and value heads."""
    head_dim: int | None = None
    """Channels of a head; 0 = dim / num_heads."""
    mlp_dim: int | None = None
    """Hidden channels of the feed-forward block."""
    norm: NormName | None = None
    """layernorm or rmsnorm."""
    norm_epsilon: float | None = None
    """Added to the variance."""
    placement: Placement | None = None
    """Placement of norms in a layer."""
    force_norm_scale: bool | None = None
    """Learn the scale of every norm."""
    closing_norm_scale: bool | None = None
    """Learn the scale of the last layer's closing norm."""
    deepnet_scaling: bool | None = None
    """Multiply the residual stream before each sum."""
    block: Block | None = None
    """serial or parallel."""
    activation: Activation | None = None
    """Non-linearity of the feed-forward block."""
    use_glu: bool | None = None
    """Gated feed-forward."""
    use_bias: bool | None = None
    """Biases in dense layers."""
    scores: Scores | None = None
    """Attention scores; T5's are unscaled."""
    head_scale: bool | None = None
    """A learned factor for each attention head."""
    positions: Positions | None = None
    """Positions of the text tokens."""
    position_offset: int | None = None
    """Rows at the start of learned position tables that are never used."""
    relative_bias: RelativeBias | None = None
    """Learned bias on the scores, of each layer's own."""
    scale_embedding: bool | None = None
    """Multiply token embeddings by √dim."""
    embedding_norm: bool | None = None
    """A norm after the embeddings."""
    causal: bool = False
    """Each text token sees only those before it, as in CLIP (Radford et al. 2021,
    arXiv:2103.00020)."""
    buckets: int = 0
    """Number of distance buckets with a learned bias on the scores. Buckets become wider with the
    distance; one table for all layers (T5; Raffel et al. 2020, arXiv:1910.10683). 0 = none."""
    bucket_distance: int = 128
    """Distances from this one on share the last bucket."""

    def __post_init__(self) -> None:
        check_least(self, "model.encoder", 0, "buckets")
        check_least(self, "model.encoder", 2, "bucket_distance")
        if self.buckets % 4 or self.buckets > MOST_BUCKETS:
            raise ValueError(
                f"model.encoder.buckets {self.buckets} is not a multiple of 4 up to "
                f"{MOST_BUCKETS:,}; T5 has 32"
            )
        if self.buckets and self.bucket_distance <= self.buckets // 4:
            raise ValueError(
                f"model.encoder.bucket_distance {self.bucket_distance} is within the "
                f"{self.buckets // 4} distances that have buckets of their own; T5 has 128"
            )
        if self.buckets and self.causal:
            raise ValueError("model.encoder.buckets are for both directions, causal sees only one")

    def __str__(self) -> str:
        settings = (f"{name}={value}" for name, value in _changed(self).items())
        return " ".join(settings) or "as the decoder"


def given(config: EncoderConfig) -> dict[str, Any]:
    """The settings that replace those of the same name in ModelConfig."""
    return {name: value for name, value in asdict(config).items() if _is_given(name, value)}


def taken_from(config: Any, **changes: Any) -> EncoderConfig:
    """An EncoderConfig without null: settings from `config`, and in `changes` those that only
    encoders have."""
    names = (field.name for field in fields(EncoderConfig) if field.name not in OWN)
    return EncoderConfig(**{name: getattr(config, name) for name in names}, **changes)


def _changed(config: EncoderConfig) -> dict[str, Any]:
    return {n: v for n, v in asdict(config).items() if v != getattr(EncoderConfig, n)}


def _is_given(name: str, value: object) -> bool:
    return value is not None and name not in OWN

"""Configuration of the text-to-image transformer and of sampling from it.

Defaults are the quickstart's. Every switch names the paper it comes from and, where DALL·E mini's
study measured it, the verdict.
"""

from dataclasses import dataclass, field, replace

from common.settings import check_least, check_multiple
from model.choices import (
    CHOICES,
    LARGEST,
    MOST_PARAMETERS,
    NOT_NEGATIVE,
    POSITIVE,
    SHARES,
    SIZES,
    Activation,
    Block,
    Init,
    NormName,
    Placement,
    Positions,
    RelativeBias,
    Remat,
    Scores,
    Tying,
)
from model.encoder_config import EncoderConfig, given


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
    """Attention heads."""
    head_dim: int = 0
    """Channels of a head; 0 = dim / num_heads."""
    decoder_num_heads: int = 0
    """Heads of the decoder's attentions; 0 = num_heads."""
    num_kv_heads: int = 0
    """Key and value heads, each shared by a group of query heads: 1 = multi-query (Shazeer 2019,
    arXiv:1911.02150), more = grouped (Ainslie et al. 2023, arXiv:2305.13245), 0 = one for every
    query head. Fewer make the decoding cache smaller."""
    mlp_dim: int = 512
    """Hidden channels of the feed-forward block; with use_glu, 8/3 of dim costs what 4 × dim does
    without."""
    decoder_mlp_dim: int = 0
    """Hidden channels of the decoder's feed-forward blocks; 0 = mlp_dim."""
    text_vocab_size: int = 2048
    """Entries of the text embedding: at least the tokenizer's."""
    text_length: int = 24
    """Text tokens a caption is padded or truncated to."""
    image_vocab_size: int = 4096
    """Classes of the output head: at least the VQGAN's codebook_size. Published models have more
    classes; these are never sampled."""
    grid_size: int = 8
    """Image tokens along one row of a picture."""
    grid_rows: int = 0
    """Rows of image tokens; 0 = grid_size, a square. 1 row makes any length expressible, as
    for BART's sentences."""
    decoder_start_token_id: int = -1
    """Token before the first image token; −1 = an extra token after all classes. Imported models
    may use one of their classes."""

    norm: NormName = "rmsnorm"
    """layernorm (Ba et al. 2016, arXiv:1607.06450) or rmsnorm (Zhang & Sennrich 2019,
    arXiv:1910.07467), which is cheaper and was the more stable one in DALL·E mini's study."""
    norm_epsilon: float = 1e-5
    """Added to the variance, or the mean square, that a norm divides by."""
    placement: Placement = "preln"
    """Placement of norms in a layer: preln (trains without warm-up; Xiong et al. 2020,
    arXiv:2002.04745), postln (BART), normformer (DALL·E mini; Shleifer et al. 2021,
    arXiv:2110.09456), swinv2 (Liu et al. 2021, arXiv:2111.09883), cogview (Ding et al. 2021,
    arXiv:2105.13290), subln (Wang et al. 2022, arXiv:2210.06423)."""
    force_norm_scale: bool = True
    """Learn the scale of every norm. False: norms before a dense layer have none, since that layer
    can learn it, as in DALL·E mini."""
    closing_norm_scale: bool = True
    """Learn the scale of the last layer's closing norm too; False is how DALL·E mini's unscanned
    postln models were saved."""
    encoder_final_norm: bool = True
    """A norm after the encoder's last layer; never with postln, which ends with one anyway."""
    decoder_final_norm: bool = True
    """A norm after the decoder's last layer: preln needs it. Never with postln."""
    deepnet_scaling: bool = False
    """Multiply the residual stream before each sum by a constant that grows with depth (Wang et al.
    2022, arXiv:2203.00555): post-LN of hundreds of layers; use it with init deepnet."""
    block: Block = "serial"
    """serial, or parallel: attention and feed-forward read the same norm and are summed, as in PaLM
    (Chowdhery et al. 2022, arXiv:2204.02311); needs placement preln."""

    activation: Activation = "silu"
    """Non-linearity of the feed-forward block: gelu (exact), gelu_tanh, quick_gelu (CLIP's,
    x · sigmoid(1.702 x)), relu (safe in float16), silu, smelu (Shamir et al. 2022,
    arXiv:2202.06499); silu with use_glu is SwiGLU."""
    use_glu: bool = True
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202): better at equal cost in DALL·E mini's
    study."""
    use_bias: bool = False
    """Biases in dense layers: +15 % time and no better in DALL·E mini's study."""

    scores: Scores = "dot"
    """Attention scores: dot / √head_dim, unscaled (dot, as in T5), cosine / cosine_temperature
    (Swin v2), or qk_norm: dot of normed queries and keys (Dehghani et al. 2023, arXiv:2302.05442),
    which stops logits growing."""
    cosine_temperature: float = 0.05
    """Divides cosine scores; a constant."""
    sinkhorn_iterations: int = 1
    """Turns of normalising the encoder's attention over keys, then queries, …; 1 = softmax
    (Sander et al. 2021, arXiv:2110.11773). From 2 on, padded positions count as queries."""
    head_scale: bool = False
    """A learned factor for each attention head (NormFormer)."""

    positions: Positions = "learned"
    """learned tables, sinusoidal (Vaswani et al. 2017, arXiv:1706.03762), rotary in self-attention
    (Su et al. 2021, arXiv:2104.09864; in the picture by row and column), or none."""
    rotary_base: float = 10_000.0
    """Longest wavelength of rotary and sinusoidal positions, in 2π tokens."""
    position_offset: int = 0
    """Rows at the start of learned position tables that are never used: BART's files have 2."""
    relative_bias: RelativeBias = "none"
    """Learned bias on the scores. offset: by rows and columns (Swin, Liu et al. 2021,
    arXiv:2103.14030), in self-attention. pair: one for each pair of positions, in cross-attention
    too; DALL·E mini calls these Swin positions."""

    tying: Tying = "none"
    """Shared embeddings: output = the head uses the image embedding (PaLM); all = the text
    embedding too (BART; the vocabularies must be equal)."""
    scale_embedding: bool = False
    """Multiply token embeddings by √dim (Vaswani et al. 2017)."""
    embedding_norm: bool = True
    """A norm after the embeddings, as in BART; PaLM has none."""
    logits_scale: float = 1.0
    """Multiplies the logits; PaLM takes 1/√dim with tied embeddings."""
    logits_bias: bool = False
    """A constant added to the logits that is never trained: BART's files hold one."""

    init: Init = "normal"
    """Initial weights: normal(init_std); with smaller gains of values, outputs and feed-forward as
    deepnet has them, larger as subln has them; palm: normal(1/√inputs), embeddings normal(1)."""
    init_std: float = 0.02
    """Standard deviation of initial weights and embeddings; palm ignores it."""

    base_dim: int = 0
    """μP (Yang et al. 2022, arXiv:2203.03466): the width for which the learning rate and init_std
    were tuned. A model of another dim starts, scores and is trained so that they stay right, with
    optimizers of adam's family; mlp_dim and other widths must grow with dim. 0 = off."""

    dropout: float = 0.0
    """Share of residual-branch outputs and embeddings dropped in training."""
    attention_dropout: float = 0.0
    """Share of attention weights dropped in training."""
    activation_dropout: float = 0.0
    """Share of feed-forward hidden units dropped in training."""

    remat: Remat = "none"
    """Parts recomputed in the backward pass to save memory (Chen et al. 2016, arXiv:1604.06174):
    nothing, each layer, or all of a layer but its matrix products (dots)."""
    unroll: int = 0
    """Layers laid out per iteration of the scan over layers. 0 = all, which runs faster where depth
    is small; 1 compiles fastest. With remat it is always 1: only a real loop keeps the compiler
    from merging the recomputation away."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Settings in which the text encoder differs from the decoder."""

    @property
    def image_length(self) -> int:
        """Image tokens of a picture."""
        return (self.grid_rows or self.grid_size) * self.grid_size

    @property
    def width_ratio(self) -> float:
        """dim / base_dim, the width for which settings were tuned; 1 without base_dim."""
        return self.dim / (self.base_dim or self.dim)

    @property
    def start_token(self) -> int:
        """The decoder's first input."""
        given = self.decoder_start_token_id
        return self.image_vocab_size if given < 0 else given

    def for_encoder(self) -> "ModelConfig":
        """The settings of the text encoder: those of `encoder`, else the decoder's. Raises
        ValueError if they exclude each other."""
        changes = given(self.encoder)
        if not changes:
            return self
        if self.tying == "all" and changes.get("dim", self.dim) != self.dim:
            raise ValueError(
                f"model.tying all shares one table of width {self.dim} with the text encoder, "
                f"whose dim is {changes['dim']}; use model.tying none or output"
            )
        changes |= {"decoder_num_heads": 0, "decoder_mlp_dim": 0, "encoder": EncoderConfig()}
        try:
            return replace(self, **changes)
        except ValueError as error:
            raise ValueError(f"model.encoder ({self.encoder}): {error}") from None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} {getattr(self, name)!r} is not one of {choices}")
        check_least(self, "model", 1, *SIZES)
        check_least(self, "model", 0, *NOT_NEGATIVE)
        for name in (*SIZES, *NOT_NEGATIVE):
            if getattr(self, name) > (most := LARGEST.get(name, 1 << 17)):
                raise ValueError(
                    f"model.{name} {getattr(self, name):,} is more than {most:,}, the limit"
                )
        if self.image_length > 1 << 20:
            raise ValueError(f"a picture of {self.image_length:,} tokens is more than {1 << 20:,}")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be in 0..1, not {getattr(self, name)}")
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"model.{name} must be positive, not {getattr(self, name)}")
        for name in ("num_heads", "decoder_num_heads"):
            self._check_heads(name, getattr(self, name) or self.num_heads)
        self._check_fit()
        self.for_encoder()
        if (count := self._least_parameters()) > MOST_PARAMETERS:
            raise ValueError(
                f"these sizes come to more than {count:.1e} parameters; make model.dim "
                f"{self.dim:,}, mlp_dim {self.mlp_dim:,}, the depths or the vocabularies smaller"
            )

    def _least_parameters(self) -> float:
        """The number of parameters in queries, outputs, feed-forward blocks and token embeddings
        only."""
        dim, mlp = float(self.dim), min(self.mlp_dim, self.decoder_mlp_dim or self.mlp_dim)
        layers = self.encoder_depth + self.decoder_depth
        tables = self.text_vocab_size + self.image_vocab_size
        return layers * 2 * dim * (dim + mlp) + tables * dim

    def _check_heads(self, name: str, heads: int) -> None:
        if not self.head_dim:
            check_multiple("model.dim", self.dim, f"model.{name}", heads)
        check_multiple(f"model.{name}", heads, "model.num_kv_heads", self.num_kv_heads or heads)
        if self.positions == "rotary" and (self.head_dim or self.dim // heads) % 4:
            raise ValueError(
                f"rotary positions turn pairs of channels by row and by column, so a head needs a "
                f"multiple of 4, not {self.head_dim or self.dim // heads} (model.dim {self.dim} / "
                f"{name} {heads}, or model.head_dim)"
            )

    def _check_fit(self) -> None:
        """Switches that exclude each other."""
        wrong = {
            "model.block parallel reads one norm in front of all branches: it needs "
            f"model.placement preln, not {self.placement}, and no model.deepnet_scaling": (
                self.block == "parallel" and (self.placement != "preln" or self.deepnet_scaling)
            ),
            f"model.tying all shares one table, but model.text_vocab_size {self.text_vocab_size} "
            f"differs from model.image_vocab_size {self.image_vocab_size}": (
                self.tying == "all" and self.text_vocab_size != self.image_vocab_size
            ),
            f"model.tying all has no row for a start token behind the {self.image_vocab_size} "
            "classes; name one of them as model.decoder_start_token_id": (
                self.tying == "all" and self.start_token >= self.image_vocab_size
            ),
            f"model.decoder_start_token_id {self.decoder_start_token_id} is beyond the "
            f"{self.image_vocab_size} classes; −1 puts it behind them": (
                self.decoder_start_token_id > self.image_vocab_size
            ),
            f"model.positions sinusoidal needs an even model.dim, not {self.dim}": (
                self.positions == "sinusoidal" and self.dim % 2 == 1
            ),
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(message)


MAX_GUIDANCE = 10_000


@dataclass(frozen=True)
class SamplingConfig:
    """Settings for drawing image tokens from the model's logits."""

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
    guidance_start: float = 0.0
    """Share of the picture drawn before guidance starts (Kynkäänniemi et al. 2024,
    arXiv:2404.07724)."""
    guidance_end: float = 1.0
    """Share of the picture drawn when guidance stops; the rest costs half."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:  # NaN, too
            raise ValueError(
                f"sampling needs temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1, not "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )
        if self.temperature > 1e4:
            raise ValueError(f"sampling.temperature {self.temperature} is beyond 10,000: noise")
        if not 0 <= self.guidance_start <= self.guidance_end <= 1:
            raise ValueError(
                f"sampling needs 0 ≤ guidance_start ≤ guidance_end ≤ 1, not "
                f"{self.guidance_start} and {self.guidance_end}"
            )
        if not abs(self.guidance_scale) <= MAX_GUIDANCE:
            raise ValueError(
                f"guidance_scale {self.guidance_scale} is beyond ±{MAX_GUIDANCE}; logits overflow "
                f"there, and small models like 1 to 3"
            )

"""Configuration of the training objective, model/loss.py."""

from dataclasses import dataclass

from common.settings import check_least


@dataclass(frozen=True)
class LossConfig:
    """Extra terms of the loss, and information that is hidden from the model in training."""

    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, so that guidance has an unconditional model."""
    token_noise: float = 0.0
    """p: each picture's decoder inputs are replaced by random codes at a rate drawn from U(0, 2p).
    With 0.3 a model of a small data set listens to the caption; without noise it recognises which
    training picture it copies. 0 for large data."""
    caption_only: float = 0.0
    """Share of pictures whose decoder inputs are all random codes, so that only the caption
    helps."""
    near_codes: float = 0.0
    """Share of each target spread over the 8 codes nearest to it in the VQGAN's codebook, which
    decode to nearly the same pixels (model/near_codes.py). On a small data set it makes the
    model follow its prompt with fewer updates: 0.2 there. 0 for large data."""
    label_smoothing: float = 0.0
    """Share of each target spread over all classes (Szegedy et al. 2015, arXiv:1512.00567)."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's normaliser, which keeps logits from
    drifting; PaLM has 1e-4 (arXiv:2204.02311)."""

    def __post_init__(self) -> None:
        for name, most in (("caption_dropout", 1), ("token_noise", 0.5), ("caption_only", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"loss.{name} {getattr(self, name)} must be in 0..{most}")
        for name in ("label_smoothing", "near_codes"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"loss.{name} {getattr(self, name)} must be in 0..1, below 1")
        check_least(self, "loss", 0, "z_loss")

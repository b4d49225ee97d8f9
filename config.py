"""The configuration tree of train.py, and configurations out of YAML.

The parts' frozen dataclasses stand beside the code they configure; this file composes them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from command_line import parse_config as parse_config
from command_line import run as run
from data.config import DataConfig
from model.config import ModelConfig, SamplingConfig
from training.config import RunConfig, TrainingConfig

T = TypeVar("T")


@dataclass(frozen=True)
class TextToImageTraining(TrainingConfig):
    """Length, batch, precision, regularisation and the intervals of periodic work."""

    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, so that guidance has an unconditional model."""
    token_noise: float = 0.0
    """p: each picture's decoder inputs are replaced by random codes at a rate drawn from U(0, 2p).
    0.3 keeps a model of a small data set listening to the caption instead of recognising which
    training picture it copies; 0 for large data."""
    caption_only: float = 0.0
    """Share of pictures whose decoder inputs are all random codes, so that there is nothing but the
    caption to go by."""
    label_smoothing: float = 0.0
    """Share of each target spread over all classes (Szegedy et al. 2015, arXiv:1512.00567)."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's normaliser, which keeps logits from
    drifting; PaLM has 1e-4 (arXiv:2204.02311)."""
    grid_prompts: tuple[str, ...] = ()
    """Prompts of those grids; none = captions of held-out pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1 or self.z_loss < 0:
            raise ValueError(
                f"training.label_smoothing {self.label_smoothing} must lie in 0..1 and "
                f"training.z_loss {self.z_loss} cannot be negative"
            )
        if not 0 <= self.token_noise <= 0.5 or not 0 <= self.caption_dropout <= 1:
            raise ValueError(
                f"training.token_noise {self.token_noise} must lie in 0..0.5 and "
                f"training.caption_dropout {self.caption_dropout} in 0..1"
            )
        if not 0 <= self.caption_only <= 1:
            raise ValueError(f"training.caption_only {self.caption_only} must lie in 0..1")


@dataclass(frozen=True)
class Config(RunConfig):
    """Everything a text-to-image training run is a function of."""

    training: TextToImageTraining = field(default_factory=TextToImageTraining)
    """Length, batch, precision, regularisation and intervals."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The text-to-image transformer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The token records."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How pictures are drawn, in the run's grids and by generate.py and evaluate.py afterwards."""


def from_yaml(config_class: type[T], path: Path) -> T:
    """Read what `to_yaml` wrote. Raises ValueError when a key is unknown or of the wrong type."""
    try:
        return parse_config(config_class, [f"--config={path}"])
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None

"""`Config`, all settings of train.py, and `from_yaml`, which reads saved settings.

Each part is a frozen dataclass beside the code that it configures; this file composes them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from command_line.parser import parse_config
from common.settings import check_least
from data.config import DataConfig
from model.config import ModelConfig, SamplingConfig
from model.loss_config import LossConfig
from training.config import GridsConfig, RunConfig, TrainingConfig

T = TypeVar("T")
OF_ADAM = ("adam", "adamw", "nadamw", "lion", "schedule_free")
"""Optimizers whose update does not depend on the scale of the gradient (μP holds for them)."""


@dataclass(frozen=True)
class PromptGridsConfig(GridsConfig):
    """Grids of pictures that are drawn while a run trains, into RUN/grids."""

    prompts: tuple[str, ...] = ()
    """Prompts of the grids; none = captions of held-out pictures."""


@dataclass(frozen=True)
class TokenTraining(TrainingConfig):
    """Length, batch, precision and the intervals of periodic work."""

    eval_captions: int = 0
    """In each evaluation, try also so many captions of other pictures on each picture, and log as
    eval/SPLIT/wrong_caption the share of pictures that one of them makes likelier than their own
    caption does: 7 leave 0.875 to chance. The loss does not show whether a model listens to its
    words. Costs one evaluation more for each caption; 0 = no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "training", 0, "eval_captions")


@dataclass(frozen=True)
class Config(RunConfig):
    """All settings of a text-to-image training run."""

    training: TokenTraining = field(default_factory=TokenTraining)
    """Length, batch, precision and intervals."""

    grids: PromptGridsConfig = field(default_factory=PromptGridsConfig)
    """Grids of pictures that are drawn while a run trains, into RUN/grids."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The text-to-image transformer."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Extra terms of the loss, and information that is hidden from the model in training."""
    data: DataConfig = field(default_factory=DataConfig)
    """The token records."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Settings for drawing, in the run's grids and later in generate.py and evaluate.py."""
    text_encoder: str = ""
    """Folder of another program's text encoder to start from (BART, CLIP or T5: config.json and
    model.safetensors): it sets model.encoder. Encode captions with --tokenizer=FOLDER, too. With
    init_from or branch_from, weights are theirs, and only the settings are taken from it."""
    choose_sampling: bool = False
    """After the last update, draw some of the run's own captions with several guidance scales and
    temperatures, and write the best into RUN/sampling.yaml. Drawing uses that file if it exists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.base_dim and self.optim.name not in OF_ADAM:
            raise ValueError(
                f"model.base_dim {self.model.base_dim} is for {', '.join(OF_ADAM)}, not "
                f"{self.optim.name}, whose rates change with width in another way; use "
                "--model.base_dim=0"
            )


def from_yaml(config_class: type[T], path: Path) -> T:
    """The configuration in a YAML file that `to_yaml` wrote, in this version or an earlier one.

    Raises:
        ValueError: a key is unknown, or its value has the wrong type.
    """
    try:
        return parse_config(config_class, [f"--config={path}"], is_saved=True)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None

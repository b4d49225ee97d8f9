"""The configuration tree of train.py, and configurations as YAML and back.

The parts' frozen dataclasses stand beside the code they configure; this file composes them.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from command_line import parse_config as parse_config
from command_line import run as run
from data.config import DataConfig
from model.config import ModelConfig, SamplingConfig
from optim.config import OptimConfig
from training.config import CheckpointConfig, ParallelConfig, TrackerConfig, TrainingConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """Everything a text-to-image training run is a function of."""

    output_dir: str | None = None
    """Run folder; the same folder again resumes. Default: a new runs/DATE-NAME, so that no run is
    ever overwritten."""
    allow_changes: tuple[str, ...] = field(
        default=(),
        metadata={
            "nargs": "*",
            "help": "Settings that may differ from those that the run in output_dir was trained "
            "with, or patterns of them, such as optim.*; the ones given now are used.",
        },
    )
    """Settings that may differ on resume."""
    init_from: str = ""
    """Weights to start from, with a fresh optimizer: RUN, RUN/checkpoints/STEP, or a release, ours
    or another program's. Tables of a vocabulary or of positions may have another length."""
    branch_from: str = ""
    """Checkpoint of another run to go on from, with its optimizer and its place in the data: RUN or
    RUN/checkpoints/STEP. The decay of the learning rate may be another than there."""
    name: str = "pastel"
    """Name of the run, in the default folder's name and in the tracker."""
    seed: int = 0
    """Seed of initialisation, data order, dropout and token noise."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The text-to-image transformer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The token records."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch, precision, regularisation and intervals."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How pictures are drawn, in the run's grids and by generate.py and evaluate.py afterwards."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Devices."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Where metrics go besides metrics.jsonl."""


def to_tree(config: Any) -> dict[str, Any]:
    """The configuration as nested dicts of plain values."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """The configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(_plain(to_tree(config)), sort_keys=False)


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree


def from_yaml(config_class: type[T], path: Path) -> T:
    """Read what `to_yaml` wrote. Raises ValueError when a key is unknown or of the wrong type."""
    try:
        return parse_config(config_class, [f"--config={path}"])
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None


def check_clock(config: Config) -> None:
    """Raises ValueError where left-out batches would part the schedule's examples from those
    seen."""
    training = config.training
    leaves_out = training.skip_batches or training.on_spike == "rollback"
    if config.optim.schedule_unit == "examples" and training.batch_ramp and leaves_out:
        raise ValueError(
            "optim.schedule_unit examples counts by training.batch_ramp, which batches left out "
            "move; use --optim.schedule_unit=updates, or neither skip_batches nor on_spike=rollback"
        )

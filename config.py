"""The configuration tree of train.py, and the one command-line parser of every entry point.

The parts' frozen dataclasses stand beside the code they configure; this file composes them. It is
the only file that knows jsonargparse.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml
from jsonargparse import set_parsing_settings

from data.config import DataConfig
from model.config import ModelConfig, SamplingConfig
from optim.config import OptimConfig
from terminal import command
from training.config import CheckpointConfig, ParallelConfig, TrackerConfig, TrainingConfig

set_parsing_settings(docstring_parse_attribute_docstrings=True)

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


class _OneLineParser(jsonargparse.ArgumentParser):
    """Raises ValueError with one line instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(" ".join(str(message).split()))


def parse_config(
    config_class: type[T], arguments: Sequence[str] | None = None, prog: str = "", about: str = ""
) -> T:
    """Read flags (and the files named by --config, earlier ones first) into `config_class`.

    Fields of the top level with metadata {"nargs": "*"} take several words; with
    {"positional": True} they stand without a flag's name; a bool's flag alone means true. A
    trailing `=None`, as wandb's agent writes it, means null.

    Raises:
        ValueError: naming the flag and, for a misspelt one, the nearest that exists.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    fields: tuple[Any, ...] = dataclasses.fields(config_class)  # type: ignore[arg-type]
    facts = {f"--{one.name}" for one in fields if one.type is bool}
    words = [
        w[: -len("None")] + "null" if w.startswith("--") and w.endswith("=None") else w
        for w in (f"{w}=true" if w in facts else w for w in words)
    ]
    parser = _parser(config_class, prog, about)
    _check_preset(words)
    try:
        values = parser.parse_args(words)
    except ValueError as error:
        raise ValueError(_with_suggestion(str(error), parser)) from None
    try:
        tree = vars(parser.instantiate(values))
    except TypeError as error:
        raise ValueError(f"the configuration does not fit: {error}") from None
    _check_finite(tree)
    names = [one.name for one in fields]
    return config_class(
        **{n: tuple(tree[n]) if isinstance(tree[n], list) else tree[n] for n in names}
    )


def _parser(config_class: type, prog: str, about: str) -> jsonargparse.ArgumentParser:
    parser = _OneLineParser(prog=prog or None, description=about, allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", help="YAML file of settings, such as presets/*.yaml"
    )
    special: dict[str, Any] = {f.name: f for f in dataclasses.fields(config_class) if f.metadata}
    parser.add_class_arguments(config_class, as_group=False, skip=set(special))
    for name, one in special.items():
        about_it: dict[str, Any] = {"nargs": one.metadata["nargs"], "help": one.metadata["help"]}
        if one.metadata.get("positional"):
            parser.add_argument(name, type=str, **about_it)
        else:
            parser.add_argument(f"--{name}", type=str, default=list(one.default), **about_it)
    return parser


def _check_preset(words: list[str]) -> None:
    for i, word in enumerate(words):
        name = word.removeprefix("--config=") if word.startswith("--config=") else None
        name = words[i + 1] if word == "--config" and i + 1 < len(words) else name
        if name is not None and not Path(name).is_file():
            presets = (Path(__file__).parent / "presets").glob("*.yaml")
            known = ", ".join(sorted(f"presets/{p.name}" for p in presets))
            raise ValueError(f"no preset or config file {name!r}; there are: {known}")


def _check_finite(tree: Any, name: str = "") -> None:
    """Raises ValueError for a number that is none: `.nan` and `.inf` are floats to YAML."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {one.name: getattr(tree, one.name) for one in dataclasses.fields(tree)}
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_finite(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{name} is {tree}; it must be a finite number")


def _with_suggestion(message: str, parser: jsonargparse.ArgumentParser) -> str:
    _, unknown, flag = message.partition("unrecognized arguments: ")
    if not unknown:
        return message
    flag = flag.split()[0].partition("=")[0]
    known = [o for action in parser._actions for o in action.option_strings]
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
    return f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else "; see --help")


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
    return parse_config(config_class, [f"--config={path}"])


def run(main: Callable[[T], Any], config_class: type[T], prog: str, about: str) -> None:
    """Parse the command line, call `main`; a user's mistake is one line on stderr, exit code 2."""
    with command(prog):
        main(parse_config(config_class, prog=prog, about=about))


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

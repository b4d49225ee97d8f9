"""Opens a checkpoint: the model, its parameters, and the parts that drawing needs."""

from dataclasses import dataclass
from pathlib import Path

import jax

from common import clone
from config import Config, from_yaml
from data.mixture import folders_of
from data.text.captions import DALLE_MINI, normalizer_of
from drawing import hub
from model import pretrained
from model.config import ModelConfig, SamplingConfig
from model.transformer import Params
from optim.adapters import merge
from starting import adapted
from training.saved.runs import place_of
from training.saved.steps import SavedSteps
from weights.checksums import check_sums
from weights.releases import Origin
from weights.settings import read_own
from weights.yaml_files import read_yaml

SAMPLING_FILE = "sampling.yaml"
"""A run's file with the sampling settings that drawing/choosing.py chose."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: settings and parameters of a trained model."""

    folder: Path
    """The folder of the run or release, which also holds tokenizer/ and vqgan/."""
    step: int | None
    """Finished updates; None for a release, which does not record them."""
    model: ModelConfig
    sampling: SamplingConfig
    params: Params
    records: str | None
    """The token records that it was trained on, as configured; None for a release."""
    records_digest: str | None
    """The digest of these records at the time of training; None if it is unknown."""
    origin: Origin | None = None
    """The program that made the weights; None for ours."""
    more_records: tuple[str, ...] = ()
    """The further folders of a run that was trained on several."""

    @property
    def all_records(self) -> list[str]:
        """Every folder of token records that it was trained on; empty for a release."""
        return [] if self.records is None else [self.records, *self.more_records]

    @property
    def normalize_text(self) -> bool:
        """True if that program normalised captions as DALL·E mini does."""
        return self.origin is not None and self.origin.config.get("normalize_text") is True


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a run folder (its newest step), RUN/checkpoints/STEP, a release folder, a folder of
    another program (model/pretrained.py), or hf://USER/NAME.

    Raises:
        ValueError: the path is none of these, or damaged, or cannot be downloaded.
    """
    path = hub.fetch(path) if hub.is_on_hub(path) else clone.find(path)
    if (path / pretrained.CONFIG_FILE).is_file():
        return _open_release(path)
    is_step = path.parent.name == "checkpoints" and path.name.isdecimal()
    run, step = (path.parent.parent, int(path.name)) if is_step else (path, None)
    config = _config_of(run)
    if config is None or not (config.checkpoint.folder or (run / "checkpoints").is_dir()):
        raise ValueError(
            f"no checkpoint at {path}: looked for a run folder (config.yaml and checkpoints/), a "
            f"step in one (RUN/checkpoints/STEP) and a release (config.json and model.safetensors)"
        )
    return _open_run(run, step, config)


def _open_release(folder: Path) -> Checkpoint:
    """The model in a release folder, ours or another program's."""
    check_sums(folder)
    release = pretrained.read(folder)
    return Checkpoint(
        folder, None, release.model, release.sampling, release.params, None, None, release.origin
    )


def _open_run(run: Path, step: int | None, config: Config) -> Checkpoint:
    """The model of a run at a step; None = its newest one."""
    check_sums(run)  # of its tokenizer and its VQGAN
    step, params, digest = _restore(place_of(run, config.checkpoint.folder), step, config)
    records, *more = folders_of(config.data.records)
    return Checkpoint(
        run,
        step,
        config.model,
        _sampling(run, config),
        params,
        records,
        digest,
        more_records=tuple(more),
    )


def _config_of(run: Path) -> Config | None:
    """The configuration of a run; None if the folder is not a run. Raises ValueError for a run of
    a VQGAN."""
    path = run / "config.yaml"
    if not path.is_file():
        return None
    if "quantizer" in read_yaml(path):
        raise ValueError(
            f"{run} is the run of a VQGAN, which turns pictures into tokens and back; name the run "
            "of a transformer"
        )
    return from_yaml(Config, path)


def _sampling(run: Path, config: Config) -> SamplingConfig:
    """The sampling settings of a run, from SAMPLING_FILE, or else from its configuration. Raises
    ValueError if the file is damaged."""
    path = run / SAMPLING_FILE
    if not path.is_file():
        return config.sampling
    try:
        return read_own(SamplingConfig, read_yaml(path).get("sampling"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove the file, and train.py chooses again") from None


def _restore(where: str, step: int | None, config: Config) -> tuple[int, Params, str | None]:
    """(step, parameters with adapters merged, digest of the records saved with them)."""
    adapters = config.optim.adapters
    shapes = adapted.build(config.model, adapters).shapes
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was trained
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
    with SavedSteps(where) as checkpoints:
        if step is None:
            newest = checkpoints.newest_params(like)  # a damaged step is skipped, with a line
            if newest is None:
                raise ValueError(f"{where} holds no step")
            step, params = newest
        elif step in checkpoints.steps():
            params = checkpoints.restore_params(like, step)
        else:
            raise ValueError(f"{where} holds no {step}")
        return step, merge(params, adapters), checkpoints.about(step).get("records")


@dataclass(frozen=True)
class Parts:
    """The folders of tokenizer and VQGAN with which a model draws."""

    tokenizer: Path
    vqgan: Path
    normalize_text: bool = False
    """True if captions go through DALL·E mini's normaliser, with which its models were trained."""
    are_given: bool = False
    """True if the user named the VQGAN: then one of another size gets a warning, not an error."""


def parts_of(
    checkpoint: Checkpoint, tokenizer: str | None = None, vqgan: str | None = None
) -> Parts:
    """The checkpoint's own tokenizer and VQGAN, or the given ones.

    Raises:
        ValueError: the checkpoint has no tokenizer, and none is given.
    """
    folder = checkpoint.folder
    own_tokenizer = folder / "tokenizer"
    if not own_tokenizer.is_dir() and any(
        (folder / name).is_file() for name in pretrained.TOKENIZER_FILES
    ):
        own_tokenizer = folder  # other programs keep the tokenizer's files beside the weights
    if tokenizer is None and not own_tokenizer.is_dir():
        raise ValueError(f"no tokenizer in {folder}; name one with --tokenizer")
    trained_with = own_tokenizer if own_tokenizer.is_dir() else clone.find(str(tokenizer))
    return Parts(
        clone.find(tokenizer) if tokenizer else own_tokenizer,
        clone.find(vqgan) if vqgan else folder / "vqgan",
        checkpoint.normalize_text or normalizer_of(trained_with) == DALLE_MINI,
        vqgan is not None,
    )

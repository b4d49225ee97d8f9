"""The settings of python -m vqgan.train, and which of them exclude each other."""

from dataclasses import dataclass, field

from common.settings import check_float32, check_least
from training.config import CheckpointConfig, GridsConfig, OnSpike, RunConfig, TrainingConfig
from vqgan.config import DiscriminatorConfig, LossConfig, QuantizerConfig, VQGANConfig
from vqgan.sets import PicturesConfig


@dataclass(frozen=True)
class PictureTraining(TrainingConfig):
    """Length, batch, precision and the intervals of periodic work."""

    steps: int = 4000
    """Optimizer updates in all; 0 = as training.epochs says."""
    batch_size: int = 16
    """Pictures per update, over all devices and micro-batches; small, since on a CPU more updates
    are worth more than larger ones."""
    on_spike: OnSpike = "off"
    """Reaction to a spike of the loss or of the gradient's norm: skip = skip this update; rollback
    = restore the newest regular checkpoint and skip the batches around the spike; off = none, the
    default because the start of the codebook is a spike. An update whose loss or gradient is NaN or
    infinite is never made."""
    log_every: int = 50
    """Updates between metrics on the terminal and in the tracker; metrics.jsonl has every
    update."""
    eval_every: int = 1000
    """Updates between evaluations on every held-out split; 0 = only at the end."""
    eval_examples: int = 512
    """Most pictures of each split in an evaluation."""
    shift: int = 0
    """Shift each picture at random by up to this many pixels along both axes, its border repeated
    (augmentation). Pictures are never flipped: letters and flags have a right way round."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "training", 0, "shift")
        check_least(self, "training", 1, "eval_examples")


@dataclass(frozen=True)
class VQGANRunConfig(RunConfig):
    """All settings of a VQGAN's training run."""

    init_from: str = ""
    """VQGAN to start from, with a fresh optimizer: a folder such as vqgan/openmoji, or another
    program's. model.image_size and model.codebook_size may differ from its own. Its codebook is
    kept if quantizer.warmup_steps is 0 and codebook_size is the same."""
    name: str = "vqgan"
    """Name of the run, in the default folder's name and in the tracker."""
    training: PictureTraining = field(default_factory=PictureTraining)
    """Length, batch, precision and intervals."""
    grids: GridsConfig = field(default_factory=lambda: GridsConfig(every=1000))
    """Grids of held-out pictures and their reconstructions, into RUN/grids."""
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=1000))
    """When checkpoints are written and which are kept."""
    model: VQGANConfig = field(default_factory=VQGANConfig)
    """The autoencoder."""
    data: PicturesConfig = field(default_factory=PicturesConfig)
    """The pictures."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The second player, used if loss.adversarial is not 0."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Initialisation of the codebook, and revival of its unused codes."""

    def __post_init__(self) -> None:
        if self.optim.adapters.rank:
            raise ValueError("optim.adapters are for train.py; here use --optim.train_only")
        super().__post_init__()
        check_float32(self.training, "python -m vqgan.train", "compute_dtype", "param_dtype")
        if self.quantizer.fixed:
            self._check_fixed()
        if self.training.epochs:  # the updates are not counted yet: checked when they are
            return
        if self.loss.adversarial:
            self._check_adversarial()
        if self.model.lookup != "fsq":
            self._check_codebook()
            self._check_frozen_codebook()

    def _check_adversarial(self) -> None:
        begin, steps = self.loss.adversarial_from, self.training.steps
        if begin >= steps:
            raise ValueError(
                f"loss.adversarial_from {begin} leaves none of the {steps} training.steps to learn "
                f"against the discriminator; try --loss.adversarial_from={steps // 2}"
            )
        side, levels = self.model.image_size, len(self.discriminator.channels)
        if side % 2**levels:
            most = (side & -side).bit_length() - 1
            raise ValueError(
                f"discriminator.channels has {levels} levels, each of half the size, and "
                f"model.image_size {side} can be halved {most} times; name {most or 'no'} channels"
            )

    def _check_fixed(self) -> None:
        if not self.init_from:
            raise ValueError(
                "quantizer.fixed trains the decoder of an existing VQGAN; name it with "
                "--init_from, such as vqgan/general"
            )
        names = self.optim.train_only
        if not names or not all(name.startswith("decoder/") for name in names):
            raise ValueError(
                f"quantizer.fixed trains the decoder only, and optim.train_only is {list(names)}; "
                "add --optim.train_only='[decoder/*]'"
            )
        if self.training.shift or self.loss.adversarial:
            raise ValueError(
                "quantizer.fixed needs unchanged pictures, and has no discriminator; add "
                "--training.shift=0 --loss.adversarial=0"
            )

    def _check_codebook(self) -> None:
        steps = self.training.steps
        warmup = self.quantizer.warmup(steps)
        if warmup >= steps:
            raise ValueError(
                f"quantizer.warmup_steps {warmup} leaves none of the {steps} training.steps to "
                f"learn with a codebook; try --quantizer.warmup_steps={steps // 4}"
            )
        per_picture, codes = self.model.grid_size**2, self.model.codebook_size
        pictures, enough = self.quantizer.refresh_pictures, -(-codes // per_picture)
        if pictures * per_picture < codes:
            raise ValueError(
                f"quantizer.refresh_pictures {pictures} × {per_picture} tokens are fewer than "
                f"model.codebook_size {codes}; try --quantizer.refresh_pictures={enough}"
            )

    def _check_frozen_codebook(self) -> None:
        """Raise ValueError if the codebook is frozen, and would be renewed all the same."""
        warmup, every = self.quantizer.warmup(self.training.steps), self.quantizer.refresh_every
        if self.quantizer.fixed or self.optim.trains("codebook") or not (warmup or every):
            return
        raise ValueError(
            f"optim.freeze or train_only keeps the codebook as it is, but quantizer has {warmup} "
            f"warmup_steps, after which it is a new one, and refresh_every {every}; add "
            "--quantizer.warmup_steps=0 --quantizer.refresh_every=0, or let the codebook be trained"
        )

"""Configuration of a training run: length, batch, precision, intervals, checkpoints, devices,
tracker; and the settings that every trainer has."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from common.settings import check_least
from optim.config import OptimConfig
from training.spans import parse_duration, parse_ramp, parse_range, parse_trace

ComputeDtype = Literal["float32", "bfloat16", "float16"]
MicroBatchSize = int | Literal["auto"]
ParamDtype = Literal["float32", "bfloat16"]
MatmulPrecision = Literal["default", "high", "highest"]
ParallelMode = Literal["pmap", "mesh"]
OnSpike = Literal["off", "skip", "rollback"]
ObserveLevel = Literal["off", "economy", "business", "full"]


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch, precision and the intervals of periodic work."""

    steps: int = 500
    """Optimizer updates in all; 0 = training.epochs decides."""
    epochs: float = 0.0
    """Length in passes over the training examples, in place of training.steps. It is converted to
    updates, rounded up. 0 = training.steps decides."""
    least_steps: int = 0
    """With training.epochs: make at least so many updates, since passes over few examples are few
    updates."""
    batch_size: int = 32
    """Examples per update, over all devices and micro-batches."""
    batch_ramp: tuple[str, ...] = ()
    """Batches that grow: BATCH:SIZE, such as 1000:1024 3000:2048 for 1,024 examples from batch 1000
    on. A device's micro-batch does not change. Count the schedule in examples then
    (optim.schedule_unit)."""
    accumulation_steps: int = 1
    """Micro-batches whose gradients are averaged into one update: the same update with less
    memory."""
    micro_batch_size: MicroBatchSize = 0
    """Examples in a device's micro-batch, in place of accumulation_steps. auto = the most that fit
    in its memory: the step is compiled and, on an accelerator, run. 0 = accumulation_steps
    decides."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products; optimizer state, norms, softmax and loss stay float32,
    weights follow param_dtype. float16 trains with dynamic loss scaling."""
    param_dtype: ParamDtype = "float32"
    """Precision of stored matrices and tables. bfloat16 halves their memory (a sixth of all memory
    with adamw's state). It has 8 significant bits, so updates are rounded stochastically, and
    gradients of micro-batches are rounded, too. Norms, biases, sums of gradients, optimizer state
    and averages stay float32."""
    matmul_precision: MatmulPrecision = "default"
    """Precision of float32 products in the training step. default is the device's fastest: bfloat16
    on TPUs, TF32 on GPUs. high is about TF32 on TPUs, in three passes, and highest is true float32.
    CPUs always use true float32."""
    on_spike: OnSpike = "skip"
    """Reaction to a spike of the loss or of the gradient's norm: skip = skip this update; rollback
    = restore the newest regular checkpoint and skip the batches around the spike; off = none. An
    update whose loss or gradient is NaN or infinite is never made, with any setting."""
    spike_threshold: float = 10.0
    """Height of a spike above the median of the last good updates, in robust standard deviations of
    the loss or of the logarithm of the norm. In ordinary runs nothing is above 3.1."""
    spike_window: int = 128
    """Number of good updates in that median. Until there are this many, and during the warm-up of
    the learning rate, nothing is a spike."""
    spike_patience: int = 10
    """Spikes in a row after which the next one counts as a lasting new level, for example after a
    change of settings. Its update is made, and the median starts again. With on_spike=rollback,
    this many rollbacks to one checkpoint come first. Must be less than bad_update_budget."""
    rollback_batches: int = 100
    """With on_spike=rollback: batches skipped before and after the spike, as far back as the
    checkpoint."""
    bad_update_budget: int = 20
    """Updates that may be skipped or rolled back among about the last 1,000; with more the run
    stops."""
    skip_batches: tuple[str, ...] = ()
    """Future batches to skip: ranges a:b, of batches a to b − 1. Update n + 1 takes batch n if none
    is skipped."""
    loss_scale_window: int = 200
    """float16: updates without overflow after which the loss scale doubles; an overflow halves
    it."""
    loss_scale_floor: float = 1.0
    """float16: the lowest loss scale."""
    loss_scale_patience: int = 10
    """float16: overflows in a row at the floor at which the run stops; below bad_update_budget,
    which counts them too."""
    stop_after: str = ""
    """HH:MM, such as 11:45: save and end, as at SIGTERM and with exit code 75, so long after this
    process began; for a job with a time limit."""
    profile: str = ""
    """a:b, such as 100:110: a trace of updates a + 1 to b by jax's profiler, in RUN/profile."""
    norms_every: int = 0
    """Updates between logs of the norms of gradient, weights and update of every tensor, by layer,
    and of the ratio of update to weights; 0 = never."""
    lr_range_test: bool = False
    """Raise the learning rate from 1/1000 of optim.learning_rate to 100 times it over
    training.steps, draw RUN/lr_range.svg, and name a rate to start from (Smith 2015,
    arXiv:1506.01186). No spike and no NaN ends such a run."""
    observe: ObserveLevel = "off"
    """Statistics of updates that are logged: economy (without a further pass: norms, histograms,
    distance from the start; with 2 micro-batches or devices also noise scale, GSNR, norm and
    inner-product test), business (a second gradient and a forward pass: alpha, activations,
    entropies), full (products with the Hessian: largest eigenvalue, trace)."""
    observe_every: int = 50
    """Updates between these statistics."""
    log_every: int = 10
    """Updates between metrics on the terminal and in the tracker; metrics.jsonl has every
    update."""
    eval_every: int = 250
    """Updates between evaluations of the loss on every held-out split; 0 = only at the end."""
    eval_examples: int = 256
    """Most examples of each split in an evaluation of the loss."""

    def __post_init__(self) -> None:
        self._check_length()
        check_least(self, "training", 1, "batch_size", "accumulation_steps")
        check_least(self, "training", 2, "spike_window", "loss_scale_window", "loss_scale_patience")
        for name in ("spike_threshold", "loss_scale_floor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"training.{name} must be positive, not {getattr(self, name)}")
        check_least(
            *(self, "training", 0, "least_steps", "log_every", "eval_every", "eval_examples"),
            *("norms_every", "spike_patience", "rollback_batches", "bad_update_budget"),
        )
        check_least(self, "training", 1, "observe_every")
        for text in self.skip_batches:
            parse_range(text)
        if self.stop_after:
            parse_duration(self.stop_after)
        if self.profile:
            parse_trace(self.profile)
        self._check_ramp()
        self._check_micro_batch()

    def _check_length(self) -> None:
        steps, epochs = self.steps, self.epochs
        if epochs < 0 or steps < 0 or not (epochs or steps):
            raise ValueError(
                f"training.steps {steps} and training.epochs {epochs:g}: one of them must say how "
                "long the run is, at least 1 update or more than 0 passes"
            )
        if epochs and steps:
            raise ValueError(
                f"training.steps {steps} and training.epochs {epochs:g} both say how long the run "
                "is; give one of them"
            )

    def _check_micro_batch(self) -> None:
        size, parts = self.micro_batch_size, self.accumulation_steps
        if size != "auto" and size < 0:
            raise ValueError(f"training.micro_batch_size cannot be negative, not {size}")
        if size and parts > 1:
            raise ValueError(
                f"training.micro_batch_size {size} and training.accumulation_steps {parts} say the "
                "same thing twice; add --training.accumulation_steps=1"
            )

    def _check_ramp(self) -> None:
        ramp = [(0, self.batch_size), *map(parse_ramp, self.batch_ramp)]
        for (start, size), (later, larger) in pairwise(ramp):
            if later <= start or larger <= size:
                raise ValueError(
                    f"training.batch_ramp must rise: from batch {later} on {larger} examples, "
                    f"after {size} from batch {start} on"
                )


@dataclass(frozen=True)
class GridsConfig:
    """Grids of pictures that are drawn while a run trains, into RUN/grids."""

    every: int = 250
    """Updates between grids; 0 = only at the end, −1 = none at all."""

    def __post_init__(self) -> None:
        check_least(self, "grids", -1, "every")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    every: int = 250
    """Updates between checkpoints; one is always written at the end and on SIGTERM."""
    minutes: float = 0.0
    """Most minutes between two checkpoints, by the clock of process 0. 0 = only the number of
    updates counts."""
    keep: int = 3
    """Newest checkpoints kept; older ones are deleted. 0 = all are kept."""
    keep_every: int = 0
    """Updates between checkpoints that are never deleted, such as 50000, for branch_from. 0 =
    none."""
    keep_best: str = ""
    """An evaluated metric, such as eval/tone/loss: the checkpoint with its lowest value is kept
    too, of those written at an evaluated step. With a minus before its name, the highest. A NaN is
    never best."""

    folder: str = ""
    """Place for checkpoints: a folder on another disk, or gs://BUCKET/NAME or s3://BUCKET/NAME,
    which machines without a shared disk need. Other files stay in output_dir, and are copied there
    at each save. The same command copies them back into an empty output_dir. Default:
    output_dir/checkpoints."""

    def __post_init__(self) -> None:
        check_least(self, "checkpoint", 0, "every", "minutes", "keep", "keep_every")
        metric = self.keep_best.removeprefix("-")
        if metric and not metric.startswith("eval/"):
            raise ValueError(
                f"checkpoint.keep_best {self.keep_best} is not an evaluated metric, such as "
                "eval/tone/loss"
            )
        scheme, is_url, _ = self.folder.partition("://")
        if is_url and scheme not in ("gs", "s3", "file"):
            raise ValueError(
                f"checkpoint.folder {self.folder} is neither a folder nor a gs:// or s3:// address"
            )


@dataclass(frozen=True)
class ParallelConfig:
    """Devices and processes. They change results only by rounding."""

    mode: ParallelMode = "pmap"
    """pmap shards the batch over the devices and replicates the state on each; mesh can shard the
    state as well, for models that do not fit one device."""
    devices: int = 0
    """Devices of each process over which the batch is spread; 0 = all."""
    fsdp: int = 1
    """With mesh: number of shards of weights and optimizer state, which are all-gathered layer by
    layer when needed. Devices beyond fsdp × tensor hold replicas."""
    tensor: int = 1
    """With mesh: number of shards of heads, feed-forwards and vocabularies (tensor parallelism);
    best within one machine."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where the processes of a run meet. Found under SLURM, Open MPI,
    Kubernetes and on TPU pods; else the same on every process."""
    num_processes: int | None = None
    """Number of processes; default: as for the coordinator. 1 = this process is alone, whatever a
    launcher says: for several runs under one srun or in one indexed Job."""
    process_id: int | None = None
    """Number of this process, from 0; found like the coordinator."""

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor", "num_processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"parallel.{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class TrackerConfig:
    """Copies of the metrics to other programs. metrics.jsonl is always written."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror metrics and grids to Weights & Biases: off, offline (files under RUN/wandb), or
    online."""
    project: str = "pastel"
    """wandb project."""
    tensorboard: bool = False
    """Also write the metrics of the terminal, and grids, as TensorBoard event files into
    RUN/tensorboard."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of every training run, except its model and its data."""

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
    """Checkpoint of another run to continue from, with its optimizer state and its position in the
    data: RUN or RUN/checkpoints/STEP. The decay of the learning rate may differ."""
    name: str = "pastel"
    """Name of the run, in the default folder's name and in the tracker."""
    note: str = ""
    """The question that the run should answer, for its logbook. python -m experiments.logbook
    collects the questions of all runs."""
    seed: int = 0
    """Seed of everything drawn at random: initialisation, data order, dropout, noise. 32 bits."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch, precision and intervals."""
    grids: GridsConfig = field(default_factory=GridsConfig)
    """Grids of pictures that are drawn while a run trains, into RUN/grids."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Devices."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Copies of metrics.jsonl in other programs."""

    def __post_init__(self) -> None:
        if self.init_from and self.branch_from:
            raise ValueError("init_from starts a fresh optimizer, branch_from keeps it; give one")
        if self.optim.adapters.rank and not (self.init_from or self.branch_from):
            raise ValueError(
                "optim.adapters are trained on top of other weights, which stay as they are; name "
                "them with --init_from"
            )
        if "/" in self.name or not self.name.isprintable() or len(self.name.encode()) > 200:
            raise ValueError(
                f"name {self.name!r:.60} cannot be part of a folder's name: take at most 200 "
                "letters without / and line ends"
            )
        if not -(1 << 31) <= self.seed < 1 << 32:  # jax takes the lowest 32 bits of any other
            raise ValueError(
                f"seed {self.seed!s:.20} has more than 32 bits; take 0 to {(1 << 32) - 1}"
            )
        training, saves = self.training, self.checkpoint
        if training.on_spike == "rollback" and not saves.every:
            raise ValueError(
                "training.on_spike rollback goes back to the steps of checkpoint.every, which is "
                "0; name a number of updates, or use --training.on_spike=skip"
            )
        if saves.keep_best and not training.eval_every:
            raise ValueError(
                f"checkpoint.keep_best {saves.keep_best} is measured every training.eval_every "
                "updates, which is 0; name a number"
            )
        skips = training.skip_batches or training.on_spike == "rollback"
        if self.optim.counts_examples and training.batch_ramp and skips:
            raise ValueError(
                "optim counts examples by training.batch_ramp, which skipped batches move; use "
                "--optim.schedule_unit=updates with lengths in updates, or neither skip_batches "
                "nor on_spike=rollback"
            )
        if self.optim.name == "schedule_free" and training.param_dtype != "float32":
            raise ValueError(
                "optim.name schedule_free takes differences of weights that bfloat16 would round "
                "away; use --training.param_dtype=float32"
            )

"""A recipe: a training run as a value. train.py, vqgan/train.py and clip/train.py each make one;
training/session.py trains it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from jaxtyping import Array, Key, PyTree

from optim.paths import Factor
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.loop import Between, Hook
from training.reports.metrics import NO_COSTS, Costs
from training.update.loss import B, Loss
from training.update.observables import Observable, Update
from training.update.players import Players
from training.update.shared import Programs
from training.update.state import TrainState

BatchAt = Callable[[int], B]
"""n → this process's rows of the batch of update n + 1."""


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its folder, its devices, and its micro-batch."""

    folder: Path
    devices: Devices
    micro_batch: int
    """Examples per device in one pass."""
    programs: Programs | None = None
    """Compiled programs shared with other runs of this process; None = not shared."""


def no_start(path: str, fresh: PyTree) -> tuple[PyTree, list[str]]:
    """Raise ValueError: this recipe cannot read the weights of --init_from."""
    raise ValueError(f"init_from {path}: this trainer has no weights to start from")


@dataclass(frozen=True, kw_only=True)
class Objective(Generic[B]):
    """The parts of a recipe that one update needs."""

    loss: Loss[B]
    model_statistics: Callable[[Update], Mapping[str, Array]] | None = None
    """An observable of the model itself, for training.observe from level business on."""
    players: Players = field(default_factory=dict)
    """Further sets of parameters that are trained beside the model's, by name."""
    rates: Sequence[Factor] = ()
    """Factors of the learning rate by patterns of paths, in addition to optim.rates."""
    observables: Sequence[Observable] = ()
    """Further observables, which only this recipe has."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Objective[B]):
    """A training run as a value: parameters, loss, data, and the work around the updates."""

    init: Callable[[Key[Array, ""]], PyTree]
    """Key → random parameters, in float32."""
    open_batches: Callable[[BatchPlan, Devices], BatchAt[B]]
    """(sizes of the batches, devices) → a function that reads one batch."""
    batch_shapes: Callable[[int], B]
    """Number of examples → the shapes of a whole batch; no memory is allocated."""
    depends_on: Mapping[str, str]
    """Inputs of a run besides its settings, such as the data's digest, by name. They are
    saved with each checkpoint, and must be the same on resume."""
    splits: Sequence[str] = ()
    """Names of the held-out splits that the hooks evaluate."""
    examples: int = 0
    """Number of training examples, for training.epochs; 0 = unknown."""
    summary: str = ""
    """A few words about the data, printed at the start."""
    prepare: Callable[[Run], None] = lambda run: None
    """Writes the recipe's files into the run's folder; called on process 0 before training."""
    hooks: Callable[[Run], Sequence[Hook]] = lambda run: ()
    """Periodic work, such as evaluation."""
    between: Between = lambda n, state: state
    """Work between updates that may replace the state; a pure function of its arguments."""
    costs: Callable[[Devices], Costs] = lambda devices: NO_COSTS
    """Tokens and FLOPs of an example, for speed metrics."""
    start_from: Callable[[str, PyTree], tuple[PyTree, list[str]]] = no_start
    """(--init_from, random parameters on the devices) → (parameters with its weights, lines for the
    logbook). Raises ValueError if the weights are another model's."""
    start_fresh: Callable[[PyTree], tuple[PyTree, list[str]]] = lambda params: (params, [])
    """Random parameters on the devices → (initial parameters of a run without --init_from, lines
    for the logbook). Raises ValueError for weights that do not fit."""
    finish: Callable[[Run, TrainState], None] = lambda run, state: None
    """Called on every process after the last update, and at each later start."""

    def start(self, source: str, fresh: PyTree) -> tuple[PyTree, list[str]]:
        """(the parameters before the first update, lines for the logbook), from random ones on the
        devices: with the weights of `source`, which is --init_from, or without it as `start_fresh`
        says."""
        return self.start_from(source, fresh) if source else self.start_fresh(fresh)

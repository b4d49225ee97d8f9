"""A recipe: everything that is trained, as a value. train.py and vqgan/train.py each make one,
training/session.py trains it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Array, Key, PyTree

from optim.paths import Factor
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.devices.fitting import Shapes
from training.devices.parallel import HostBatch
from training.loop import Hook
from training.programs import Programs
from training.reports.metrics import NO_COSTS, Costs
from training.update.gradients import Loss
from training.update.observables import Observable, Update
from training.update.players import Players
from training.update.state import TrainState

BatchAt = Callable[[int], HostBatch]
"""n → this process's rows of the batch of the update that follows n finished ones."""
Between = Callable[[int, TrainState], TrainState]
"""(n, state) → the state that the update after n finished ones starts from."""


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its folder, its devices, and its micro-batch."""

    folder: Path
    devices: Devices
    micro_batch: int
    """Examples a device holds at a time."""
    programs: Programs | None = None
    """Compiled programs that it shares with other runs; None: with none."""


def no_start(path: str, fresh: PyTree) -> tuple[PyTree, list[str]]:
    """Refuse --init_from, for a recipe that cannot read weights."""
    raise ValueError(f"init_from {path}: this trainer has no weights to start from")


def nothing(run: Run) -> None:
    """Prepare nothing."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What an update minimises, and what is looked at inside of it."""

    loss: Loss
    look_inside: Callable[[Update], Mapping[str, Array]] | None = None
    """What training.observe shows of the model itself."""
    players: Players = field(default_factory=dict)
    """Further sets of parameters that are trained beside the model's, by name."""
    rates: Sequence[Factor] = ()
    """Factors of the learning rate that the model wants, by patterns of paths, besides those of
    optim.rates."""
    observables: Sequence[Observable] = ()
    """Values computed inside of an update, besides those that every recipe has."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Objective):
    """A training run as a value: parameters, loss, data, and the work around the updates."""

    init: Callable[[Key[Array, ""]], PyTree]
    """Random parameters, in float32."""
    open_batches: Callable[[BatchPlan, Devices], BatchAt]
    batch_shapes: Callable[[int], Shapes]
    """The arrays of a whole batch of so many examples as shapes, without their memory."""
    depends_on: Mapping[str, str]
    """Dependencies of a run besides its settings, such as the data's digest. They are saved with
    each checkpoint, and must be the same on resume."""
    splits: Sequence[str] = ()
    """Names of the held-out splits that the hooks evaluate."""
    examples: int = 0
    """Number of training examples, for training.epochs; 0 = not known."""
    summary: str = ""
    """A few words about the data, printed at the start."""
    prepare: Callable[[Run], None] = nothing
    """Puts the run's own files into its folder; called on process 0 before the first update."""
    hooks: Callable[[Run], Sequence[Hook]] = lambda run: ()
    """Periodic work on finished states."""
    between: Between | None = None
    """Work between updates that may replace the state; a pure function of its arguments."""
    costs: Callable[[Devices], Costs] = lambda devices: NO_COSTS
    """The costs of an example, for figures of speed."""
    start_from: Callable[[str, PyTree], tuple[PyTree, list[str]]] = no_start
    """(--init_from, fresh parameters on the devices) → parameters with its weights, and lines about
    them for the logbook. Raises ValueError for another model's weights."""
    begin: Callable[[PyTree], tuple[PyTree, list[str]]] | None = None
    """Fresh parameters on the devices → the parameters that a run without --init_from starts from,
    and lines about them for the logbook; None: these. Raises ValueError for weights that do not
    fit."""
    finish: Callable[[Run, TrainState], None] = lambda run, state: None
    """Called on every process once the last update is made, and at each later start."""

"""The supervision of a run: who receives each update's metrics, and each state to save."""

from collections.abc import Mapping
from typing import NamedTuple

from training.config import RunConfig
from training.loop import Callbacks
from training.reports.logbook import Logbook
from training.reports.trackers import Tracker
from training.rollback import Rollback
from training.saved.checkpoint import Checkpoints
from training.saver import Saver
from training.skips import Skips
from training.update.state import TrainState
from training.watch import Watch


class Supervision(NamedTuple):
    """The parts of a run around its loop."""

    callbacks: Callbacks
    """The tracker records metrics and pictures; the watch decides if the run continues."""
    saver: Saver
    rollback: Rollback


def supervise(
    config: RunConfig,
    about: Mapping[str, object],
    checkpoints: Checkpoints,
    tracker: Tracker,
    book: Logbook,
    skips: Skips,
    state: TrainState,
) -> Supervision:
    """The supervision of a loop that starts from `state`. `about` is saved with each checkpoint."""
    rollback = Rollback(config, about, checkpoints, tracker, book, skips, state)
    watch = Watch(config.training, rollback, skips, book)
    saver = Saver(about, checkpoints, tracker, book, watch, rollback, start=int(state.step))
    callbacks = Callbacks(tracker.record, tracker.image, watch.check, watch.is_over, saver.rescue)
    return Supervision(callbacks, saver, rollback)

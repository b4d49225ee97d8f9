"""Saves the states of a run, and says at its end which of them a resume finds."""

import contextlib
from collections.abc import Mapping

import jax

from training.reports.logbook import Logbook
from training.reports.trackers import Tracker
from training.rollback import Rollback
from training.saved.checkpoint import Checkpoints
from training.saved.remote import UnreachableError
from training.update.spikes import reset_budget
from training.update.state import TrainState, is_finite
from training.update.step_metrics import evaluated
from training.watch import Watch


class Saver:
    """Saves a state together with the metrics of its evaluation."""

    def __init__(
        self,
        about: Mapping[str, object],
        checkpoints: Checkpoints,
        tracker: Tracker,
        book: Logbook,
        watch: Watch,
        rollback: Rollback,
        start: int,
    ) -> None:
        """`about` is saved with each checkpoint; `start` is the step that the loop starts from."""
        self._about, self._checkpoints, self._tracker = about, checkpoints, tracker
        self._book, self._watch, self._rollback, self._start = book, watch, rollback, start

    def save(self, step: int, state: TrainState) -> None:
        """Save a state. The last state of a run that ends because of bad updates gets the full
        budget again for a resume; it is not saved if it holds a NaN."""
        if self._watch.is_over():
            if not is_finite(state):
                return
            state = state._replace(guard=state.guard and reset_budget(state.guard))
        self._tracker.sync()
        self._checkpoints.save(state, self._about, evaluated(self._tracker.row))
        self._rollback.release_rows(step)

    def rescue(self, step: int, state: TrainState) -> None:
        """Save the last state of a run that ends with an error, and log which step is the newest.
        With several processes nothing is saved: a save needs all of them, and the error may be in
        one."""
        if jax.process_count() == 1:
            with contextlib.suppress(Exception):  # the error may have taken state or disk
                if is_finite(state):
                    self.save(step, state)
        self._book.announce("kept", step, self._describe_newest(step))

    def finish(self, step: int) -> None:
        """Wait for the last save. Raises ValueError if it failed, or if the run ended because of
        its updates; the message names the step from which a resume continues."""
        if self._watch.is_over():
            raise ValueError(f"{self._watch.reason_to_end}. {self._describe_newest(step)}")
        self._checkpoints.finish()

    def _describe_newest(self, step: int) -> str:
        """A sentence about the newest checkpoint of a run that ends at `step`, and about lost
        updates."""
        self._checkpoints.settle()
        try:
            steps = self._checkpoints.steps()
        except UnreachableError:
            return "The newest checkpoint cannot be seen from here"
        if step in steps:
            return f"The state of step {step} is saved, and a resume continues from there"
        if not steps:
            return f"No checkpoint was saved: {step - self._start} update(s) are lost"
        newest = f"The newest checkpoint is of step {steps[-1]}"
        return f"{newest}: {step - steps[-1]} update(s) since then are lost"

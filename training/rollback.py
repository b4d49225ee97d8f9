"""Rolls a run back before a spike, and skips the batches around it (training/skips.py)."""

from collections.abc import Mapping

import jax

from training.config import RunConfig
from training.loop import RollbackError
from training.reports.logbook import Logbook
from training.reports.trackers import Tracker
from training.saved.checkpoint import Checkpoints
from training.skips import SkippedBatches, Skips
from training.update.spikes import MEMORY
from training.update.state import TrainState


class Rollback:
    """Goes back to regular checkpoints, which are those of checkpoint.every. A replay saves the
    same ones again."""

    def __init__(
        self,
        config: RunConfig,
        fixed: Mapping[str, object],
        checkpoints: Checkpoints,
        tracker: Tracker,
        book: Logbook,
        skips: Skips,
        state: TrainState,
    ) -> None:
        """`fixed`: what a checkpoint must say about itself. `state` has the shapes and shardings of
        every state of the run."""
        self._config, self._fixed = config, fixed
        self._is_on = config.training.on_spike == "rollback"
        self._checkpoints, self._tracker, self._book = checkpoints, tracker, book
        self._skips = skips
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )

    def is_possible(self, step: int) -> bool:
        """True if training.on_spike is rollback, there is a checkpoint before `step`, and not too
        many rollbacks to it have failed."""
        if not self._is_on:
            return False
        self._checkpoints.settle()  # a save under way is not yet a checkpoint in every process
        target = self._target(step)
        failed = sum(skipped.step == target for skipped in self._past())
        return target is not None and failed < max(self._config.training.spike_patience, 1)

    def count_recent(self, step: int) -> int:
        """The number of rollbacks because of spikes in the last 1,000 updates."""
        return sum((skipped.spike or 0) > step - MEMORY for skipped in self._past())

    def go_back(self, error: RollbackError) -> TrainState:
        """The state of the newest regular checkpoint before the spike. The batches around the spike
        are skipped from now on. Call it only where `is_possible` was true."""
        step, every = error.step, self._config.checkpoint.every
        self._checkpoints.settle()
        state = self._checkpoints.resume(
            lambda: self._like, self._fixed, lambda n: n < step and n % every == 0
        )
        assert state is not None
        back, batch = int(state.step), self._skips.position(step - 1)
        text = f"{error}: back to step {back}"
        self._book.announce("rollback", step, text, back=back, batch=batch)
        margin = self._config.training.rollback_batches
        first = max(batch - margin, self._skips.position(back))
        why = f"spike {len(self._past()) + 1}, at step {step}"
        self._skips.skip(first, batch + margin + 1, back, why, step)
        self._tracker.rewind(back)
        return state

    def release_rows(self, step: int) -> None:
        """Send the rows to the mirror that no rollback can remove any more; called after each save,
        at `step`."""
        if self._is_on:
            self._tracker.release(self._target(step + 1) or 0)

    def _target(self, step: int) -> int | None:
        """The newest regular checkpoint before a step; None if there is none."""
        every = self._config.checkpoint.every
        regular = [n for n in self._checkpoints.steps() if n < step and every and n % every == 0]
        return max(regular, default=None)

    def _past(self) -> list[SkippedBatches]:
        """The rollbacks so far, each with one of the ranges that it skipped."""
        after_spikes = [skipped for skipped in self._skips.ranges if skipped.spike is not None]
        return list({skipped.why: skipped for skipped in after_spikes}.values())

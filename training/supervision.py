"""The supervisor of a run: it records metrics, saves states, and ends the run or rolls it back."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

import jax

from training.config import RunConfig
from training.loop import Callbacks, RollbackError
from training.reports.logbook import Logbook
from training.reports.trackers import Tracker
from training.saved import runs
from training.saved.checkpoint import Checkpoints
from training.saved.remote import UnreachableError
from training.skips import SkippedBatches, Skips
from training.spans import parse_range
from training.update.spikes import FINE, LEVEL, NOT_FINITE, SPIKE, reset_budget
from training.update.state import TrainState, is_finite
from training.update.step_metrics import Row, ScaleMetrics, StepMetrics, evaluated


class Supervisor:
    """Receives the metrics of each update and each state to save. It records and saves them, ends
    the run after too many bad updates, or rolls it back after a spike."""

    def __init__(
        self,
        config: RunConfig,
        about: Mapping[str, object],
        checkpoints: Checkpoints,
        tracker: Tracker,
        book: Logbook,
        skips: Skips,
        state: TrainState,
    ) -> None:
        """`about` is saved with each checkpoint; `state` is the state that the loop starts from."""
        self._config, self._settings, self._about = config, config.training, about
        self._checkpoints, self._tracker, self._book = checkpoints, tracker, book
        self.skips = skips
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        self._start = int(state.step)
        self._row: Row = {}
        self._overflows = 0
        self._over = ""
        for text in self._settings.skip_batches:
            self._skip(*parse_range(text), int(state.step), "by hand")

    def callbacks(self) -> Callbacks:
        """The methods that the loop calls."""
        return Callbacks(self.record, self.show, self.watch, self.is_over)

    def show(self, step: int, name: str, picture: Path) -> None:
        """Send a picture of a hook to the tracker."""
        self._tracker.image(step, name, picture)

    def record(self, step: int, row: Row) -> None:
        """Send the metrics of an update to the tracker."""
        self._row = row
        self._tracker.record(step, row)

    def is_over(self) -> bool:
        """True if the run must end because of its updates."""
        return bool(self._over)

    def save(self, step: int, state: TrainState) -> None:
        """Save a state with the metrics of its evaluation. If the run ends because of bad updates,
        its last state gets the full budget again for a resume; it is not saved if it holds a NaN.
        """
        if self._over:
            if not is_finite(state):
                return
            state = state._replace(guard=state.guard and reset_budget(state.guard))
        self._tracker.sync()
        self._checkpoints.save(state, self._about, evaluated(self._row))
        if self._settings.on_spike == "rollback":
            self._tracker.release(self._regular_before(step + 1) or 0)

    def _skip(self, start: int, stop: int, step: int, why: str, spike: int | None = None) -> None:
        for added in self.skips.skip(start, stop, step, why, spike):
            text = f"batches {added.start}:{added.stop}, {why}"
            self._book.announce("skip batches", step, text, first=added.start, stop=added.stop)

    def watch(self, step: int, metrics: StepMetrics) -> None:
        """Log the guard's decision about an update, and end the run after too many bad updates.
        Raises RollbackError if the run rolls back to a checkpoint."""
        if metrics.loss_scale is not None:
            self._check_scale(step, metrics.loss_scale)
        if metrics.guard is None or metrics.guard.event == FINE:
            return
        event, batch = int(metrics.guard.event), self.skips.position(step - 1)
        loss, norm = float(metrics.loss), float(metrics.grad_norm)
        found = f"loss {loss:.4g}, gradient norm {norm:.4g}"
        if math.isfinite(norm) and not math.isfinite(metrics.params_norm):
            found += ", of weights that would be NaN"
        values = {"train/loss": loss, "norm/grad": norm}
        facts = {"batch": batch, **{k: v for k, v in values.items() if math.isfinite(v)}}
        if event == LEVEL:
            text = f"{found}: after {self._settings.spike_patience} spikes in a row a new level"
            self._book.announce("level", step, f"{text}; the update was made", **facts)
            return
        if event == SPIKE and self._settings.on_spike == "rollback" and not self._over:
            self._consider_rollback(step, found)
        name = "skip" if event == NOT_FINITE else "spike"
        self._book.announce(name, step, f"{found}: the update was not made", **facts)
        if metrics.guard.pressure > self._settings.bad_update_budget:
            self._end(
                f"more than training.bad_update_budget {self._settings.bad_update_budget} bad "
                f"updates of about 1,000, the last at step {step} (batch {batch}, {found}); none "
                f"was made. {_advice(event)}"
            )

    def _end(self, text: str) -> None:
        """End the run for this reason. Only the first reason counts: the next update was already
        dispatched."""
        self._over = self._over or text

    def finish(self, step: int) -> None:
        """Wait for the last save. Raises ValueError if it failed, or if the run ended because of
        its updates; the message names the step from which a resume continues."""
        if not self._over:
            self._checkpoints.finish()
            return
        raise ValueError(f"{self._over}. {self._kept(step)}")

    def rescue(self, step: int, state: TrainState) -> None:
        """Save the last state of a run that ends with an error, and log what is saved. With several
        processes nothing is saved: a save needs all of them, and the error may be in one."""
        if jax.process_count() == 1:
            with contextlib.suppress(Exception):  # the error may have taken state or disk
                if is_finite(state):
                    self.save(step, state)
        self._book.announce("kept", step, self._kept(step))

    def _kept(self, step: int) -> str:
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

    def _check_scale(self, step: int, metrics: ScaleMetrics) -> None:
        """End the run if float16 overflows again and again at the lowest loss scale."""
        at_floor = metrics.scale <= self._settings.loss_scale_floor
        self._overflows = self._overflows + 1 if metrics.skipped and at_floor else 0
        if self._overflows >= self._settings.loss_scale_patience:
            self._end(
                f"float16 overflowed in {self._overflows} updates running at the lowest loss scale "
                f"{self._settings.loss_scale_floor:g}, up to step {step}; train with compute_dtype "
                "bfloat16 or float32, or a lower learning rate"
            )

    def _consider_rollback(self, step: int, found: str) -> None:
        """Raise RollbackError if there is a checkpoint before the spike, and not too many rollbacks
        to it have failed. After too many rollbacks, end the run."""
        self._checkpoints.settle()  # a save under way is not yet a checkpoint in every process
        target = self._regular_before(step)
        failed = {skip.why for skip in self._spikes() if skip.step == target}
        if target is None or len(failed) >= max(self._settings.spike_patience, 1):
            return
        budget = self._settings.bad_update_budget
        recent = {skip.why for skip in self._spikes() if (skip.spike or 0) > step - 1000}
        if len(recent) < budget:
            raise RollbackError(step, found)
        self._end(
            f"a spike at step {step} ({found}) after {len(recent)} rollbacks, as many as "
            f"training.bad_update_budget allows. {_advice(SPIKE)}"
        )

    def _spikes(self) -> list[SkippedBatches]:
        """The batches that were skipped after spikes."""
        return [skip for skip in self.skips.ranges if skip.spike is not None]

    def _regular_before(self, step: int) -> int | None:
        """The newest regular checkpoint before a step; a replay saves the same ones."""
        every = self._config.checkpoint.every
        regular = [n for n in self._checkpoints.steps() if n < step and every and n % every == 0]
        return max(regular, default=None)

    def roll_back(self, error: RollbackError) -> TrainState:
        """The state of the newest regular checkpoint before the spike. The batches around the spike
        are skipped from now on."""
        step, spikes = error.step, {skip.why for skip in self._spikes()}
        every, batch = self._config.checkpoint.every, self.skips.position(step - 1)
        self._checkpoints.settle()
        state = self._checkpoints.resume(
            lambda: self._like,
            runs.fixed_on_resume(self._about, self._config.allow_changes),
            lambda n: n < step and n % every == 0,
        )
        assert state is not None  # _consider_rollback saw it
        back, wide = int(state.step), self._settings.rollback_batches
        self._book.announce(
            "rollback", step, f"{error}: back to step {back}", back=back, batch=batch
        )
        first = max(batch - wide, self.skips.position(back))
        why = f"spike {len(spikes) + 1}, at step {step}"
        self._skip(first, batch + 1 + wide, back, why, step)
        self._tracker.rewind(back)
        return state


def _advice(event: int) -> str:
    """A sentence that advises how to resume after too many bad updates."""
    lower = "Resume with a lower optim.learning_rate (--allow_changes optim.learning_rate)"
    if event == SPIKE:
        return (
            f"{lower}; or, if the loss stays at a new level, with a training.spike_patience "
            "below that budget or --training.on_spike=off (--allow_changes 'training.*spike*')"
        )
    return f"{lower}, or skip batches (--training.skip_batches)"

"""Watches the updates of a run: logs the bad ones, and decides if the run continues, ends, or rolls
back. The guard (training/update/spikes.py) has kept their harm from the state already."""

import math
from typing import NamedTuple

from training.config import TrainingConfig
from training.loop import RollbackError
from training.reports.logbook import Logbook
from training.rollback import Rollback
from training.skips import Skips
from training.update.spikes import FINE, LEVEL, NOT_FINITE, SPIKE
from training.update.step_metrics import ScaleMetrics, StepMetrics


class Event(NamedTuple):
    """An update that the guard did not find good."""

    kind: int
    """NOT_FINITE, SPIKE or LEVEL."""
    step: int
    batch: int
    """The number of its batch, skipped ones included."""
    loss: float
    grad_norm: float
    are_weights_finite: bool
    pressure: float
    """Number of recent bad updates."""

    @property
    def numbers(self) -> str:
        """Its loss and its gradient norm in words."""
        text = f"loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}"
        is_surprise = math.isfinite(self.grad_norm) and not self.are_weights_finite
        return f"{text}, of weights that would be NaN" if is_surprise else text

    @property
    def facts(self) -> dict[str, float]:
        """Its batch and its finite numbers, for logbook.jsonl."""
        values = {"train/loss": self.loss, "norm/grad": self.grad_norm}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return {"batch": self.batch, **finite}


def read_event(step: int, batch: int, metrics: StepMetrics) -> Event | None:
    """The guard's event in the metrics of an update; None if the update was good."""
    if metrics.guard is None or metrics.guard.event == FINE:
        return None
    return Event(
        kind=int(metrics.guard.event),
        step=step,
        batch=batch,
        loss=float(metrics.loss),
        grad_norm=float(metrics.grad_norm),
        are_weights_finite=math.isfinite(metrics.params_norm),
        pressure=float(metrics.guard.pressure),
    )


class Watch:
    """Logs bad updates, and knows why the run must end, if it must."""

    def __init__(
        self, settings: TrainingConfig, rollback: Rollback, skips: Skips, book: Logbook
    ) -> None:
        self._settings, self._rollback, self._skips, self._book = settings, rollback, skips, book
        self._overflows = 0
        self.reason_to_end = ""
        """A sentence without its full stop; empty while the run may continue."""

    def is_over(self) -> bool:
        """True if the run must end because of its updates."""
        return bool(self.reason_to_end)

    def check(self, step: int, metrics: StepMetrics) -> None:
        """Log a bad update; after too many of them, the run is over. Raises RollbackError if the
        run rolls back to a checkpoint."""
        if metrics.loss_scale is not None:
            self._check_scale(step, metrics.loss_scale)
        event = read_event(step, self._skips.position(step - 1), metrics)
        if event is not None:
            self._check_event(event)

    def _check_scale(self, step: int, metrics: ScaleMetrics) -> None:
        """End the run if float16 overflows again and again at the lowest loss scale."""
        is_at_floor = metrics.scale <= self._settings.loss_scale_floor
        self._overflows = self._overflows + 1 if metrics.skipped and is_at_floor else 0
        if self._overflows >= self._settings.loss_scale_patience:
            self._end(
                f"float16 overflowed in {self._overflows} updates running at the lowest loss scale "
                f"{self._settings.loss_scale_floor:g}, up to step {step}; train with compute_dtype "
                "bfloat16 or float32, or a lower learning rate"
            )

    def _check_event(self, event: Event) -> None:
        if event.kind == LEVEL:
            patience = self._settings.spike_patience
            text = f"after {patience} spikes in a row a new level; the update was made"
            self._announce("level", event, text)
            return
        if event.kind == SPIKE and not self.is_over() and self._rollback.is_possible(event.step):
            self._roll_back(event)
        name = "skip" if event.kind == NOT_FINITE else "spike"
        self._announce(name, event, "the update was not made")
        budget = self._settings.bad_update_budget
        if event.pressure > budget:
            self._end(
                f"more than training.bad_update_budget {budget} bad updates of about 1,000, the "
                f"last at step {event.step} (batch {event.batch}, {event.numbers}); none was made. "
                f"{_advice(event)}"
            )

    def _roll_back(self, event: Event) -> None:
        """Raise RollbackError. After too many rollbacks, end the run instead."""
        rollbacks = self._rollback.count_recent(event.step)
        if rollbacks < self._settings.bad_update_budget:
            raise RollbackError(event.step, event.numbers)
        self._end(
            f"a spike at step {event.step} ({event.numbers}) after {rollbacks} rollbacks, as many "
            f"as training.bad_update_budget allows. {_advice(event)}"
        )

    def _announce(self, name: str, event: Event, text: str) -> None:
        self._book.announce(name, event.step, f"{event.numbers}: {text}", **event.facts)

    def _end(self, reason: str) -> None:
        """End the run for this reason. Only the first reason counts: the next update was already
        dispatched."""
        self.reason_to_end = self.reason_to_end or reason


def _advice(event: Event) -> str:
    """A sentence that advises how to resume after too many bad updates."""
    lower = "Resume with a lower optim.learning_rate (--allow_changes optim.learning_rate)"
    if event.kind == SPIKE:
        return (
            f"{lower}; or, if the loss stays at a new level, with a training.spike_patience "
            "below that budget or --training.on_spike=off (--allow_changes 'training.*spike*')"
        )
    return f"{lower}, or skip batches (--training.skip_batches)"

"""When checkpoints are saved, and which of them are kept."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax

from training.config import CheckpointConfig
from training.devices.processes import Agreement
from training.loop import Hook
from training.update.state import TrainState


def make_save_hook(config: CheckpointConfig, save: Callable[[int, TrainState], object]) -> Hook:
    """A hook that saves every checkpoint.every updates, checkpoint.minutes after the last save, and
    every checkpoint.keep_every updates; in all processes at the same step."""
    clock = Clock(config.minutes * 60.0)

    def action(step: int, state: TrainState) -> None:
        save(step, state)
        clock.start()

    return SaveHook(config.every, action, config.keep_every, clock)


class Clock:
    """A timer for saves. With several processes, process 0's clock counts."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """`seconds` is the time between saves; 0 = never."""
        self._seconds, self._now, self._agree = seconds, now, Agreement()
        self.start()

    def start(self) -> None:
        """Restart the timer; called after a save, at the same step in every process."""
        self._since = self._now()
        self._agree.forget()

    def is_over(self) -> bool:
        """True once the time is over; called once per update, in every process."""
        if not self._seconds:
            return False
        is_mine = jax.process_index() == 0 and self._now() - self._since >= self._seconds
        return self._agree(is_mine)


@dataclass(frozen=True)
class SaveHook(Hook):
    """A hook that is due by the number of updates or by the timer."""

    keep_every: int
    clock: Clock

    def is_due(self, step: int, is_last: bool) -> bool:
        is_over = self.clock.is_over()
        is_lasting = self.keep_every > 0 and step % self.keep_every == 0
        return super().is_due(step, is_last) or is_lasting or is_over


def check_keep_best(config: CheckpointConfig, splits: Iterable[str]) -> None:
    """Raise ValueError if checkpoint.keep_best names a split that is not evaluated."""
    known = [f"eval/{split}/" for split in splits]
    name = config.keep_best.removeprefix("-")
    if name and not name.startswith(tuple(known)):
        there_are = ", ".join(f"{prefix}…" for prefix in known) or "none: no split is held out"
        raise ValueError(
            f"checkpoint.keep_best {config.keep_best} names no evaluated split; there are: "
            f"{there_are}"
        )


def to_keep(
    steps: Sequence[int],
    config: CheckpointConfig,
    metrics_of: Callable[[int], Mapping[str, float]],
) -> tuple[set[int], str]:
    """(the steps to keep, the problem with keep_best or ""). Kept are the newest, the best by
    keep_best, and those of keep_every. With a problem all steps are kept. A NaN is never best."""
    if not config.keep:
        return set(steps), ""
    kept = set(steps[-config.keep :])
    if config.keep_every:
        kept |= {step for step in steps if step % config.keep_every == 0}
    if not config.keep_best:
        return kept, ""
    name = config.keep_best.removeprefix("-")
    sign = -1 if config.keep_best.startswith("-") else 1
    metrics_by_step = {step: metrics_of(step) for step in steps}
    scores = {
        step: sign * metrics[name] for step, metrics in metrics_by_step.items() if name in metrics
    }
    others = sorted({key for metrics in metrics_by_step.values() for key in metrics})
    if others and not scores:
        problem = f"checkpoint.keep_best {name} was not measured, and no step is deleted for it"
        return set(steps), f"{problem}; there are: {', '.join(others)}"
    finite = {step: score for step, score in scores.items() if math.isfinite(score)}
    return kept | ({min(finite, key=lambda step: finite[step])} if finite else set()), ""

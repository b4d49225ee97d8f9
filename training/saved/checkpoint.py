"""The checkpoints of a run: the whole training state, saved atomically, in a folder or an object
store. training/saved/steps.py reads them. A resume takes the newest undamaged step, and moves later
ones aside.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from common.json_files import Json
from training.config import CheckpointConfig
from training.devices.processes import in_all_processes
from training.saved.digests import json_digest, leaf_digests
from training.saved.items import items_of
from training.saved.remote import UnreachableError
from training.saved.saving import to_keep
from training.saved.steps import Eligible, Log, SavedSteps, first_line, print_event
from training.update.state import TrainState

WAIT_BELOW = 256 * 2**20
"""Bytes per process below which training waits for a save, so that a kill loses only the updates
since that save. A larger save is written in the background; a kill during it loses the updates made
since then, too."""


class Checkpoints(SavedSteps):
    """The saved steps of a run that saves more of them. Large saves happen in the background
    (WAIT_BELOW)."""

    def __init__(
        self,
        place: Path | str,
        config: CheckpointConfig,
        log: Log = print_event,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """`log(event, text)` reports events (a failed save); `first()` is called during each save,
        before it is complete."""
        super().__init__(place, log, is_writer=True)
        self._config, self._first = config, first
        self._pending: int | None = None
        self._unsaved: str | None = None
        self._has_logged = False
        self._whole = ""

    def __enter__(self) -> "Checkpoints":
        return self

    def resume(
        self,
        like: Callable[[], TrainState],
        about: Mapping[str, object],
        is_eligible: Eligible = lambda step: True,
    ) -> TrainState | None:
        """The newest undamaged state among the eligible steps; None if there are no steps. `like()`
        returns the argument of `restore`. Newer steps are moved aside, because training will write
        them again.

        Raises:
            ValueError: the state was trained on other data than `about` says; it does not fit; or
                all steps are damaged.
        """
        if jax.process_index() == 0:
            self._store.tidy()
        newest = self.newest_undamaged(
            lambda step: self._matching(like(), about, step), is_eligible
        )
        if newest is None:
            return None
        step, state = newest
        self._set_aside_after(step)
        return state

    def _matching(self, like: TrainState, about: Mapping[str, object], step: int) -> TrainState:
        saved = self.about(step)
        changed = [
            f"{k} (was {saved.get(k)}, now {v})" for k, v in about.items() if saved.get(k) != v
        ]
        if changed:
            raise ValueError(
                f"this run was trained with other data: {', '.join(changed)}; resume with that "
                "data, --init_from this run in a new one, or add --allow_changes data.records"
            )
        return self.restore(like, step)

    def _set_aside_after(self, newest: int) -> None:
        """Rename later steps, so that new ones can have their numbers."""
        for step in self.steps() if jax.process_index() == 0 else ():
            if step > newest:
                self._store.set_aside(step)
        in_all_processes(True)
        self._store.reload()

    def save(
        self,
        state: TrainState,
        about: Mapping[str, object],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write the state with `about` and its evaluated `metrics`, unless that step exists. A
        failed save is logged, and training continues; `finish` raises it."""
        self.settle()
        items, step = items_of(state), int(state.step)
        record: Json = {"about": dict(about), "metrics": dict(metrics or {})}
        record["digests"] = leaf_digests(items)
        record["digest"] = json_digest(record)
        self._pending, self._unsaved = step, None
        try:
            if step in self.steps():
                self._pending = None
                return
            self._store.save(step, items, record, self._first)
        except Exception as error:
            self._give_up(error)
        # The condition is the same in every process, which writes about its share.
        if sum(leaf.nbytes for leaf in jax.tree.leaves(items)) < WAIT_BELOW * jax.process_count():
            self.settle()

    def settle(self) -> None:
        """Wait for the save in progress, then delete the steps that are not kept."""
        if self._pending is None:
            return
        try:
            self._store.wait()
        except Exception as error:
            self._give_up(error)
            return
        self._pending = None
        if jax.process_index() > 0:  # process 0 decides: others could see a half-deleted list
            return
        with contextlib.suppress(UnreachableError):
            for step in set(self.steps()) - self._kept():
                with contextlib.suppress(Exception):  # tried again at the next save
                    self._store.delete(step)

    def _give_up(self, error: Exception) -> None:
        """Log that a save failed, and remove its files."""
        step, self._pending = self._pending, None
        assert step is not None
        reason = first_line(error)
        self._unsaved = f"the checkpoint of step {step} could not be written: {reason}"
        self._whole = "not seen from here"
        if not isinstance(error, UnreachableError):
            self._store.clean(step)
            self._whole = ", ".join(map(str, self.steps())) or "none"
        self._log("unsaved", f"{self._unsaved}; older steps are as they were ({self._whole})")

    def _kept(self) -> set[int]:
        """The steps to keep. A problem with checkpoint.keep_best is logged once."""
        kept, problem = to_keep(self.steps(), self._config, self.metrics)
        if problem and not self._has_logged:
            self._log("kept", problem)
            self._has_logged = True
        return kept

    def finish(self) -> None:
        """Wait for the save in progress. Raises ValueError if the last save failed."""
        self.settle()
        if self._unsaved is not None:
            raise ValueError(
                f"{self._unsaved}; after a repair, the same command resumes from the last "
                f"undamaged step ({self._whole})"
            )

    def close(self) -> None:
        """Wait for the save in progress, and close the folder or the store."""
        self.settle()
        super().close()

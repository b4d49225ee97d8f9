"""Checkpoints of a run: the whole training state, saved atomically, in a folder or an object store.

A step holds the parameters, the rest of the state, averaged parameters if there are any, and a
JSON. The JSON has the run's dependencies (`about`), the digest of every array, and a digest of
itself. Everything that is read is compared with its digest. A resume takes the newest undamaged
step, and moves damaged ones aside.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import jax
from jaxtyping import PyTree

from common.json_files import Json
from common.trees import map_named
from training.config import CheckpointConfig
from training.devices.processes import from_process_0, in_all_processes
from training.saved.digests import (
    check_fit,
    describe,
    is_digest,
    json_digest,
    leaf_digests,
    shape_of,
)
from training.saved.disk import FolderSteps
from training.saved.items import Items, items_of, items_to_read, parts_to_renew, state_of
from training.saved.remote import ObjectSteps, UnreachableError, is_remote
from training.saved.saving import to_keep
from training.update.state import TrainState

Log = Callable[[str, str], None]
Eligible = Callable[[int], bool]
T = TypeVar("T")
CAUSES = (
    r"No space left on device(?:: [\d,.]+ MB to write, [\d,.]+ MB free)?|Disk quota exceeded|"
    "File too large|Too many open files|Read-only file system|Input/output error"
)
"""The operating system's messages, searched for in errors that libraries have wrapped."""
WAIT_BELOW = 256 * 2**20
"""Bytes per process below which training waits for a save, so that a kill loses only the updates
since that save. A larger save is written in the background; a kill during it loses the updates made
since then, too."""


class DamagedError(ValueError):
    """A step whose files have changed since they were written."""


def print_event(event: str, text: str) -> None:
    """Print an event to stderr."""
    print(f"{event}: {text}", file=sys.stderr)


class Checkpoints:
    """The steps of a run, in a folder or an object store. Large saves happen in the background
    (WAIT_BELOW)."""

    def __init__(
        self,
        place: Path | str,
        config: CheckpointConfig | None = None,
        log: Log = print_event,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the steps; without `config`, only for reading. `log(event, text)` reports events
        (a failed save); `first()` is called during each save, before it is complete."""
        self._place, self._config, self._log, self._first = place, config, log, first
        self._pending: int | None = None
        self._unsaved: str | None = None
        self._has_logged = False
        self._whole = ""
        self._store = (
            ObjectSteps(str(place))
            if is_remote(place)
            else FolderSteps(Path(place), is_writer=config is not None)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The numbers of all saved steps, oldest first; damaged ones are included."""
        return self._store.steps()

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
        reason = _first_line(error)
        self._unsaved = f"the checkpoint of step {step} could not be written: {reason}"
        self._whole = "not seen from here"
        if not isinstance(error, UnreachableError):
            self._store.clean(step)
            self._whole = ", ".join(map(str, self.steps())) or "none"
        self._log("unsaved", f"{self._unsaved}; older steps are as they were ({self._whole})")

    def _kept(self) -> set[int]:
        """The steps to keep. A problem with checkpoint.keep_best is logged once."""
        steps = self.steps()
        if self._config is None:
            return set(steps)
        kept, problem = to_keep(steps, self._config, self._metrics)
        if problem and not self._has_logged:
            self._log("kept", problem)
            self._has_logged = True
        return kept

    def _metrics(self, step: int) -> dict[str, float]:
        try:
            return self._record(step, collective=False)["metrics"]
        except ValueError:
            return {}

    def finish(self) -> None:
        """Wait for the save in progress. Raises ValueError if the last save failed."""
        self.settle()
        if self._unsaved is not None:
            raise ValueError(
                f"{self._unsaved}; after a repair, the same command resumes from the last "
                f"undamaged step ({self._whole})"
            )

    def digests(self, step: int) -> dict[str, str]:
        """The digest of every array of a step, by path."""
        return self._record(step)["digests"]

    def about(self, step: int) -> Json:
        """The JSON saved beside a step."""
        return self._record(step)["about"]

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
        newest = self._newest_whole(lambda step: self._matching(like(), about, step), is_eligible)
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

    def _newest_whole(
        self, read: Callable[[int], T], is_eligible: Eligible = lambda step: True
    ) -> tuple[int, T] | None:
        """(newest undamaged step, `read(step)`); None if there are no steps."""
        steps = [step for step in reversed(from_process_0(self.steps)) if is_eligible(step)]
        for step in steps:
            try:
                return step, read(step)
            except DamagedError as error:
                self._log("fallback", f"{error}; the step before it is taken")
        if steps:
            raise ValueError(f"no checkpoint in {self._place} is undamaged; none was removed")
        return None

    def _set_aside_after(self, newest: int) -> None:
        """Rename later steps, so that new ones can have their numbers."""
        for step in self.steps() if jax.process_index() == 0 else ():
            if step > newest:
                self._store.set_aside(step)
        in_all_processes(True)
        self._store.reload()

    def restore(self, like: TrainState, step: int) -> TrainState:
        """The state of a step, in the shardings of `like` (arrays, or shapes with shardings).

        A loss scale, guard or player that the step lacks, or holds in another size, is taken from
        `like`. Missing averages start from the parameters.

        Raises:
            ValueError: a shape differs; DamagedError: names the damaged array.
        """
        saved = self.digests(step)
        renewed = parts_to_renew(like, saved)
        items = self._restore(step, items_to_read(like, saved, renewed))
        return state_of(items, like, renewed)

    def restore_params(self, like: PyTree, step: int) -> PyTree:
        """The parameters of a step, or their averages if it has any, in the shapes, dtypes and
        shardings of `like`."""
        saved = self.digests(step)
        item = "ema" if any(name.startswith("ema/") for name in saved) else "params"

        def as_saved(name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            digest = saved.get(f"{item}/{name}", describe(leaf))
            dtype = shape_of(digest, leaf).dtype
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

        wanted = map_named(as_saved, like)
        params = self._restore(step, {item: wanted})[item]
        return jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), params, like)

    def newest_params(self, like: PyTree) -> tuple[int, PyTree] | None:
        """(step, parameters) of the newest undamaged step; None if there are no steps."""
        return self._newest_whole(lambda step: self.restore_params(like, step))

    def _restore(self, step: int, wanted: Items) -> Items:
        expected = self.digests(step)
        check_fit(self._store.name(step), expected, wanted)
        with self._readable(step):
            items = self._store.restore(step, wanted)
        with self._readable(step):
            for name, digest in leaf_digests(items).items():
                if digest != expected[name]:
                    raise ValueError(f"{name} has other bits than were saved")
        return items

    def _record(self, step: int, collective: bool = True) -> Json:
        with self._readable(step, collective):
            record = self._store.record(step)
            if json_digest({k: v for k, v in record.items() if k != "digest"}) != record["digest"]:
                raise ValueError("its JSON has other bits than were saved")
            for name in ("about", "metrics", "digests"):
                if not isinstance(record[name], dict):
                    raise ValueError(f"{name} in its JSON is {record[name]!r:.40}")
            if wrong := [key for key, digest in record["digests"].items() if not is_digest(digest)]:
                raise ValueError(f"the digest of {wrong[0]!r:.60} in its JSON is not valid")
        return record

    @contextlib.contextmanager
    def _readable(self, step: int, collective: bool = True) -> Iterator[None]:
        """A context that turns errors of a step's files into DamagedError with one line that names
        the step. If `collective`, an error in one process is raised in all, so none waits."""
        name, problem = self._store.name(step), None
        try:
            yield
        except (PermissionError, MemoryError, UnreachableError):
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # no fault of the files
                raise
            problem = error
        is_well = in_all_processes(problem is None) if collective else problem is None
        if not is_well:
            reason = _first_line(problem) if problem else "another process could not read its part"
            raise DamagedError(f"checkpoint {name} is damaged: {reason}") from problem

    def close(self) -> None:
        """Wait for the save in progress."""
        self.settle()
        self._store.close()


def _first_line(error: BaseException) -> str:
    """The line of an error that names the cause, without the lines of libraries around it."""
    known = re.search(CAUSES, str(error))
    lines = [line for line in str(error).splitlines() if line.strip()]
    return known[0] if known else (lines[0][:300] if lines else type(error).__name__)

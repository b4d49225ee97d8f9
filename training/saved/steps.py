"""Saved steps of a run, read and verified.

A step holds the parameters, the rest of the state, averaged parameters if there are any, and a
JSON. The JSON has the run's dependencies (`about`), the digest of every array, and a digest of
itself. Everything that is read is compared with its digest.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import jax
from jaxtyping import PyTree

from common.json_files import Json
from common.trees import map_named
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
from training.saved.items import Items, items_to_read, parts_to_renew, state_of
from training.saved.remote import ObjectSteps, UnreachableError, is_remote
from training.update.state import TrainState

Log = Callable[[str, str], None]
"""(event, text) → None."""
Eligible = Callable[[int], bool]
T = TypeVar("T")
CAUSES = (
    r"No space left on device(?:: [\d,.]+ MB to write, [\d,.]+ MB free)?|Disk quota exceeded|"
    "File too large|Too many open files|Read-only file system|Input/output error"
)
"""The operating system's messages, searched for in errors that libraries have wrapped."""


class StepStore(Protocol):
    """A place that holds steps. A folder (disk.py) and an object store (remote.py) are such places.

    Every process calls `save`, `wait`, `clean`, `restore`, `reload` and `close`; process 0 alone
    may call `tidy`, `delete` and `set_aside`.
    """

    def name(self, step: int) -> str:
        """The place of a step, for messages."""

    def steps(self) -> list[int]:
        """The numbers of all complete steps, oldest first; damaged ones are included."""

    def record(self, step: int) -> Json:
        """The JSON saved with a step."""

    def restore(self, step: int, wanted: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """The arrays of a step, for trees of shapes with shardings."""

    def save(
        self, step: int, items: Mapping[str, PyTree], record: Json, first: Callable[[], None]
    ) -> None:
        """Start to write a step. `first()` is called before the step can be complete."""

    def wait(self) -> None:
        """Wait until the last step is complete. Raises the error of its save."""

    def clean(self, step: int) -> None:
        """Remove what a failed save left."""

    def tidy(self) -> None:
        """Remove what interrupted saves of earlier runs left."""

    def delete(self, step: int) -> None:
        """Delete a step."""

    def set_aside(self, step: int) -> None:
        """Rename a step to aside-STEP, which is never read."""

    def reload(self) -> None:
        """Notice the steps that another process deleted or set aside."""

    def close(self) -> None:
        """Wait for writes that still run, and release the place."""


class DamagedError(ValueError):
    """A step whose files have changed since they were written."""


def print_event(event: str, text: str) -> None:
    """Print an event to stderr."""
    print(f"{event}: {text}", file=sys.stderr)


class SavedSteps:
    """The steps in a folder or an object store, only for reading."""

    def __init__(
        self, place: Path | str, log: Log = print_event, *, is_writer: bool = False
    ) -> None:
        """`log(event, text)` reports events, such as a damaged step."""
        self._place, self._log = place, log
        self._store: StepStore = (
            ObjectSteps(str(place)) if is_remote(place) else FolderSteps(Path(place), is_writer)
        )

    def __enter__(self) -> "SavedSteps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder or the store."""
        self._store.close()

    def steps(self) -> list[int]:
        """The numbers of all saved steps, oldest first; damaged ones are included."""
        return self._store.steps()

    def about(self, step: int) -> Json:
        """The JSON saved beside a step."""
        return self._record(step)["about"]

    def digests(self, step: int) -> dict[str, str]:
        """The digest of every array of a step, by path."""
        return self._record(step)["digests"]

    def metrics(self, step: int) -> dict[str, float]:
        """The evaluated metrics of a step; empty if its JSON is damaged."""
        try:
            return self._record(step, collective=False)["metrics"]
        except ValueError:
            return {}

    def newest_params(self, like: PyTree) -> tuple[int, PyTree] | None:
        """(step, parameters) of the newest undamaged step; None if there are no steps."""
        return self.newest_undamaged(lambda step: self.restore_params(like, step))

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

    def newest_undamaged(
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
            reason = first_line(problem) if problem else "another process could not read its part"
            raise DamagedError(f"checkpoint {name} is damaged: {reason}") from problem


def first_line(error: BaseException) -> str:
    """The line of an error that names the cause, without the lines of libraries around it."""
    known = re.search(CAUSES, str(error))
    lines = [line for line in str(error).splitlines() if line.strip()]
    return known[0] if known else (lines[0][:300] if lines else type(error).__name__)

"""Checkpoints in a folder, by orbax: a step is written to a temporary name, and renamed when it is
complete. Only this file uses orbax."""

import contextlib
import functools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from common.json_files import Json
from training.devices.processes import from_process_0


@functools.cache
def quieten() -> None:
    """Hide orbax's own messages, once per process: training/saved/steps.py reports problems in
    one line. If a write fails, orbax closes its event loop, and writes that finish later print
    errors, some from a thread of tensorstore."""
    for noisy in ("absl", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    print_error, print_unraisable = sys.excepthook, sys.unraisablehook

    def is_late(error: object) -> bool:
        return str(error) == "Event loop is closed"

    sys.excepthook = lambda error_type, error, trace: (
        None if is_late(error) else print_error(error_type, error, trace)
    )
    sys.unraisablehook = lambda unraisable: (
        None if is_late(unraisable.exc_value) else print_unraisable(unraisable)
    )


SWEEPS, SWEEP_SECONDS = 4, 0.05
"""Consecutive checks that must find no files of a failed save, and the seconds between them."""
MOST_SWEEPS = 200
BESIDES = 1 << 18
"""Approximate bytes of a step without its arrays."""


class FolderSteps:
    """A `StepStore` (steps.py) of folders, on a disk that all processes share."""

    def __init__(self, folder: Path, is_writer: bool) -> None:
        quieten()
        self._folder, self._is_writer = folder.resolve(), is_writer
        self._failed: set[int] = set()
        for pattern in ("*", "*/*"):  # what orbax reads of each step when it is opened
            for path in self._folder.glob(pattern):
                _check_plain(path)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        arrays = {name: ocp.StandardCheckpointHandler() for name in ("params", "ema", "rest")}
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                create=self._is_writer,
                # Else a folder that cannot be made leaves threads that wait for it for 300 s.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
            item_handlers={**arrays, "about": ocp.JsonCheckpointHandler()},
        )

    def name(self, step: int) -> str:
        return str(self._folder / str(step))

    def steps(self) -> list[int]:
        names = [path.name for path in self._folder.glob("*")] if self._folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def save(
        self, step: int, items: Mapping[str, PyTree], record: Json, first: Callable[[], None]
    ) -> None:
        self._sweep()
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items))))
        self._failed.discard(step)
        first()
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self._manager.save(step, args=ocp.args.Composite(about=ocp.args.JsonSave(record), **args))

    def _check_room(self, size: int) -> None:
        """Raise OSError in all processes if the disk has fewer free bytes. A write that fails
        midway would leave other writes running."""
        free = from_process_0(lambda: shutil.disk_usage(self._folder).free)
        if free < size + BESIDES:
            wanted, there = f"{size / 1e6:,.1f} MB to write", f"{free / 1e6:,.1f} MB free"
            raise OSError(f"No space left on device: {wanted}, {there}")

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def clean(self, step: int) -> None:
        self._failed.add(step)
        self.close()
        self._manager = self._open()

    def _sweep(self) -> None:
        """Remove the files of failed saves, until several consecutive checks find none: writes that
        still run may make a folder again."""
        clean = 0
        for _ in range(MOST_SWEEPS if self._failed else 0):
            rests = [h for step in self._failed for h in self._folder.glob(f"{step}.*tmp*")]
            for half in rests:
                shutil.rmtree(half, ignore_errors=True)
            clean = 0 if rests else clean + 1
            if clean == SWEEPS:
                return
            time.sleep(SWEEP_SECONDS)

    def tidy(self) -> None:
        """Nothing: orbax removes interrupted saves when it opens the folder."""

    def delete(self, step: int) -> None:
        # Orbax's own method would wait for all processes.
        shutil.rmtree(self._folder / str(step))

    def set_aside(self, step: int) -> None:
        aside = self._folder / f"aside-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)

    def reload(self) -> None:
        self._manager.reload()

    def record(self, step: int) -> Json:
        # Orbax's own method would wait for all processes.
        path = self._folder / str(step) / "about" / "metadata"
        _check_plain(path)
        return json.loads(path.read_text("utf-8"))

    def restore(self, step: int, wanted: Mapping[str, PyTree]) -> dict[str, PyTree]:
        # No process waits for the others, because one of them may find its part damaged.
        folder = self._folder / str(step)
        for path in folder.rglob("*"):
            _check_plain(path)
        return {
            name: ocp.StandardCheckpointHandler().restore(
                folder / name, args=ocp.args.StandardRestore(item)
            )
            for name, item in wanted.items()
        }

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._manager.close()
        self._sweep()


def _check_plain(path: Path) -> None:
    """Raise ValueError for a pipe or a device, because reading it would block forever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is not a file, but a pipe or a device")

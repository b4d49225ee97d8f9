"""Checkpoints in a folder, by orbax: each step is written beside its place and renamed when it is
whole. Only this file knows orbax."""

import contextlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

# What they have to say is said in training/saved/checkpoint.py in a line.
for noisy in ("absl", "asyncio"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)

_print_error, _print_unraisable = sys.excepthook, sys.unraisablehook


def _print_unless_late(kind: Any, error: Any, trace: Any) -> None:
    """Where one write fails, orbax ends its event loop, and those that finish later complain."""
    if str(error) != "Event loop is closed":
        _print_error(kind, error, trace)


def _print_unraisable_unless_late(one: Any) -> None:
    """The same, for writes that finish in a thread of tensorstore's."""
    if str(one.exc_value) != "Event loop is closed":
        _print_unraisable(one)


sys.excepthook, sys.unraisablehook = _print_unless_late, _print_unraisable_unless_late


SWEEPS, SWEEP_SECONDS = 4, 0.05


class FolderSteps:
    """Steps as folders, on a disk that all processes share."""

    def __init__(self, folder: Path, is_writer: bool) -> None:
        self._folder, self._is_writer = folder.resolve(), is_writer
        self._failed: set[int] = set()
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
        """Steps that are there, whole or damaged, oldest first."""
        names = [path.name for path in self._folder.glob("*")] if self._folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def save(
        self, step: int, items: Mapping[str, Any], words: Any, first: Callable[[], None]
    ) -> None:
        """Begin to write a step; `first` is done before it can be whole."""
        self._sweep()
        self._failed.discard(step)
        first()
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self._manager.save(step, args=ocp.args.Composite(about=ocp.args.JsonSave(words), **args))

    def wait(self) -> None:
        """Wait until the last step is whole. Raises the error of its save."""
        self._manager.wait_until_finished()

    def clean(self, step: int) -> None:
        """Remove what a failed save has left, and begin with orbax anew."""
        self._failed.add(step)
        self.close()
        self._manager = self._open()

    def _sweep(self) -> None:
        """Remove what failed saves have left. Writes that were under way then may make a folder
        again."""
        for _ in range(SWEEPS if self._failed else 0):
            for half in (h for step in self._failed for h in self._folder.glob(f"{step}.*tmp*")):
                shutil.rmtree(half, ignore_errors=True)
            time.sleep(SWEEP_SECONDS)

    def tidy(self) -> None:
        """Orbax removes what saves that were cut off have left, when it is opened."""

    def delete(self, step: int) -> None:
        """Delete a step, by process 0 alone: orbax would wait for the others to delete it too."""
        if jax.process_index() == 0:
            shutil.rmtree(self._folder / str(step))

    def set_aside(self, step: int) -> None:
        """Rename a step to aside-STEP, which nobody reads."""
        aside = self._folder / f"aside-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)

    def reload(self) -> None:
        """See what is there now."""
        self._manager.reload()

    def words(self, step: int) -> Any:
        """The JSON saved with a step. Orbax's own reading would wait for all other processes."""
        return json.loads((self._folder / str(step) / "about" / "metadata").read_text("utf-8"))

    def restore(self, step: int, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of a step that `wanted`, trees of shapes with shardings, asks for. Nobody
        waits for the others, of which one may find its part damaged."""
        folder = self._folder / str(step)
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

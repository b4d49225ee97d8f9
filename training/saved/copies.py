"""Copies of a run's other files, stored beside its checkpoints when those are elsewhere
(checkpoint.folder), so that the same command goes on in an empty folder on another machine.

The run's own folder stays the place where process 0 writes and people read.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from files import write_bytes
from training.saved import starts
from training.saved.remote import Store, names, open_store, reachable

GROWING = ("metrics.jsonl", "logbook.jsonl", "LOGBOOK.md", "environment.json", "skips.json")
"""Files that are only added to: of two, the longer one is newer."""
FILES = (*GROWING, "config.yaml", "wandb_id.txt")
FOLDERS = ("tokenizer", "vqgan", "grids", "tensorboard")


class Copies:
    """Copies a run's files to FOLDER/run/…. A failed copy is reported once, and tried again."""

    def __init__(self, run: Path, folder: str, tell: Callable[[str, str], None]) -> None:
        """Without a `folder` nothing is copied."""
        self._run, self._tell = run, tell
        self._store = open_store(folder) if folder else None
        self._copied: dict[Path, tuple[int, int]] = {}
        self._is_told = False

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, *_: object) -> None:
        self.copy()

    def copy(self) -> None:
        """Copy the files that have changed since."""
        if self._store is None:
            return
        try:
            with reachable(self._store):
                self._copy(self._store)
        except Exception as error:
            if not self._is_told:
                text = " ".join(str(error).split())
                self._tell("uncopied", f"{self._run} has files that are not copied: {text}")
            self._is_told = True

    def _copy(self, store: Store) -> None:
        writes = {}
        for path in _files(self._run):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                mark = (facts.st_mtime_ns, facts.st_size)
                if self._copied.get(path) != mark:
                    name = f"run/{path.relative_to(self._run).as_posix()}"
                    writes[path] = mark, store.write(name, path.read_bytes())
        for path, (mark, write) in writes.items():
            write.result()
            self._copied[path] = mark


def fetch(run: Path, folder: str) -> None:
    """Bring back what is in the folder and not, or shorter, in the run. The settings are those
    that the newest checkpoint was trained with.

    Raises:
        ValueError: they are another run's.
        UnreachableError: the store cannot be reached.
    """
    store = open_store(folder)
    _check_same_run(run / "environment.json", store, folder)
    for name in names(store, "run/"):
        first, *rest = name.split("/")
        if (first not in FOLDERS if rest else name not in FILES) or ".." in rest:
            continue
        path = run / name
        if path.exists() and name not in (*GROWING, "config.yaml"):
            continue
        with reachable(store):
            data = store.read(f"run/{name}").result().value
        if name in GROWING and path.exists() and path.stat().st_size >= len(data):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)


def _check_same_run(path: Path, store: Store, folder: str) -> None:
    """Raises ValueError where the first starts of both differ; `path` is the run's own file."""
    with reachable(store):
        copied = store.read(f"run/{path.name}").result()
    if copied.state != "value" or not path.is_file():
        return
    theirs = starts.parse(copied.value, f"{folder}/run/{path.name}")
    if theirs[:1] != starts.read(path)[:1]:
        raise ValueError(
            f"checkpoint.folder {folder} holds another run than {path.parent}; name another"
        )


def _files(run: Path) -> Iterator[Path]:
    yield from (path for name in FILES if (path := run / name).is_file())
    for name in FOLDERS:
        yield from (path for path in (run / name).rglob("*") if path.is_file())

"""Copies of a run's files in checkpoint.folder, so that the same command resumes in an empty folder
on another machine.

The run itself writes into its own folder. Files that only grow are copied in parts, NAME and then
NAME+OFFSET, where OFFSET is the byte at which a part begins. So a save copies only the bytes since
the last one.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.files import write_bytes
from training.saved import starts
from training.saved.remote import Store, names, open_store, reachable

GROWING = ("metrics.jsonl", "logbook.jsonl", "LOGBOOK.md", "environment.json", "skips.json")
"""Files that only grow: of two copies, the longer one is newer."""
FILES = (*GROWING, "config.yaml", "wandb_id.txt", "SHA256SUMS")
FOLDERS = ("tokenizer", "vqgan", "grids", "tensorboard")
IN_PARTS = ("metrics.jsonl", "logbook.jsonl", "tensorboard/")
Parts = dict[str, list[int]]
"""Name of a file → the offsets at which its parts begin."""


class Copies:
    """Copies a run's files to FOLDER/run/…. The first failure is logged; each copy tries again."""

    def __init__(self, run: Path, folder: str, log: Callable[[str, str], None]) -> None:
        """Copies go from `run` to `folder`; without a `folder` nothing is copied."""
        self._run, self._log = run, log
        self._store = open_store(folder) if folder else None
        self._copied: dict[Path, tuple[int, int]] = {}
        self._parts: Parts | None = None
        self._since = time.time()
        self._is_told = False

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, *_: object) -> None:
        self.copy()

    def copy(self) -> None:
        """Copy the files that changed since the last call."""
        if self._store is None:
            return
        try:
            with reachable(self._store):
                self._copy(self._store)
        except Exception as error:
            if not self._is_told:
                text = " ".join(str(error).split())
                self._log("uncopied", f"{self._run} has files that are not copied: {text}")
            self._is_told = True

    def _copy(self, store: Store) -> None:
        if self._parts is None:
            self._parts = _find_parts(store)
        writes = {}
        for path in _files(self._run):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                mark = (facts.st_mtime_ns, facts.st_size)
                if self._copied.get(path) == mark:
                    continue
                name = path.relative_to(self._run).as_posix()
                is_old = facts.st_mtime < self._since and name in self._parts
                if is_old and name.startswith("grids/"):  # an earlier start copied it
                    self._copied[path] = mark
                elif name.startswith(IN_PARTS):
                    _add(store, name, path, self._parts.setdefault(name, []))
                    self._copied[path] = mark
                else:
                    writes[path] = mark, store.write(f"run/{name}", path.read_bytes())
        for path, (mark, write) in writes.items():
            write.result()
            self._copied[path] = mark


def _add(store: Store, name: str, path: Path, begins: list[int]) -> None:
    """Copy the bytes of the file after its parts. If a rollback or a resume shortened the file,
    parts beyond its end are removed first, the last one first."""
    end = 0
    with path.open("rb") as file:
        while begins:
            copied = _read(store, _part(name, begins[-1]))
            file.seek(begins[-1])
            if file.read(len(copied)) == copied:
                end = begins[-1] + len(copied)
                break
            store.write(_part(name, begins.pop()), None).result()
        file.seek(end)
        if more := file.read():
            store.write(_part(name, end), more).result()
            begins.append(end)


def _part(name: str, begin: int) -> str:
    return f"run/{name}+{begin:015d}" if begin else f"run/{name}"


def _find_parts(store: Store) -> Parts:
    """The parts of the files in the store."""
    parts: Parts = {}
    for key in names(store, "run/"):
        name, plus, begin = key.rpartition("+")
        is_part = bool(plus) and begin.isdecimal() and name.startswith(IN_PARTS)
        parts.setdefault(name if is_part else key, []).append(int(begin) if is_part else 0)
    return {name: sorted(begins) for name, begins in parts.items()}


def _read(store: Store, name: str) -> bytes:
    return store.read(name).result().value


def _join(store: Store, name: str, begins: list[int]) -> bytes:
    """The content of a file, from its consecutive parts."""
    data = b""
    for begin, read in [(begin, store.read(_part(name, begin))) for begin in begins]:
        if begin != len(data):
            break
        data += read.result().value
    return data


def fetch(run: Path, folder: str) -> None:
    """Copy the files that the run lacks, or has shorter, from `folder` back into `run`.

    Raises:
        ValueError: the files are another run's.
        UnreachableError: the store cannot be reached.
    """
    store = open_store(folder)
    _check_same_run(run / "environment.json", store, folder)
    for name, begins in _find_parts(store).items():
        first, *rest = name.split("/")
        if (first not in FOLDERS if rest else name not in FILES) or ".." in rest:
            continue
        path = run / name
        if path.exists() and name not in (*GROWING, "config.yaml"):
            continue
        with reachable(store):
            if name in GROWING and path.exists():
                longest = begins[-1] + len(_read(store, _part(name, begins[-1])))
                if path.stat().st_size >= longest:
                    continue
            data = _join(store, name, begins)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)


def _check_same_run(path: Path, store: Store, folder: str) -> None:
    """Raise ValueError if the first starts of run and copy differ. `path` is the run's file."""
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

"""Atomic writes of files and folders; imports no other file of Pastel.

A file NAME is first written into a hidden, locked folder beside it, `.NAME.XXXXXXXX.new`, and then
renamed. A kill leaves that folder behind. The next writer of the same file removes it, because its
lock is free.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORKPLACE = re.compile(r"\..+\.[a-z0-9_]{8}\.new")
LOCK = "lock"
YOUNG, OLD = 60, 24 * 3600
"""Ages in seconds of a hidden folder: a younger one may not be locked yet; an older one is
abandoned, even if the file system has no locks."""

_swept: set[tuple[Path, int]] = set()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A context with a temporary path, which is renamed to `path` at its end. An existing file is
    replaced then, and unchanged on failure. Devices and pipes are written directly.

    Raises:
        OSError: it cannot be written; the message names `path`.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    with _workplace(path) as (place, mode):
        beside = place / path.name
        yield beside
        beside.chmod(mode)  # safetensors makes files that nobody else can read
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A context with a temporary folder, which is renamed to `path` at its end; on failure nothing
    is left.

    Raises:
        ValueError: `path` exists and is not an empty folder.
        OSError: it cannot be written; the message names `path`.
    """
    path = Path(os.path.realpath(path))
    sweep(path.parent, YOUNG)
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(path) as (place, mode):
        folder = place / path.name
        folder.mkdir()
        yield folder
        for parent, _, names in os.walk(folder):
            # Readers of the files may enter: temporary folders are made for their owner.
            Path(parent).chmod(mode | (mode & 0o444) >> 2)
            for name in names:
                _sync(Path(parent, name))
            _sync(Path(parent))
        os.replace(folder, path)
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, atomically: readers see the old content or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically: readers see the old content or the new."""
    with new_file(path) as beside:
        beside.write_bytes(content)


def check_free(path: Path) -> None:
    """Raise ValueError if `path` exists and is not an empty folder."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists and holds something else; remove it or name another")


def check_writable(path: Path, flag: str) -> None:
    """Make the folder of `path`. Raises ValueError if the file cannot be written; the message names
    `flag`. It is called before long work."""
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(1 << 16))  # a full disk takes an empty file
    except OSError as error:
        raise ValueError(
            f"cannot write to {path.parent} ({error.strerror or error}); name another {flag}"
        ) from None
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"cannot write to {path}; name another {flag}")


def sweep(folder: Path, age: int = 0) -> None:
    """Remove hidden folders of killed writers that are at least `age` seconds old; once per
    process."""
    folder = Path(os.path.abspath(folder))
    if (folder, age) in _swept:
        return
    _swept.add((folder, age))
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if WORKPLACE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_abandoned(Path(entry.path), age)


def _remove_abandoned(place: Path, age: int) -> None:
    lock = place / LOCK
    with contextlib.suppress(OSError):
        idle = time.time() - place.stat().st_mtime
        inside = [p for p in place.iterdir() if p != lock]
        if len(inside) > 1 or idle < age:  # no writer of ours makes a second entry
            return
        is_locked = None
        with lock.open("r+b") if lock.exists() else contextlib.nullcontext() as file:
            is_locked = _lock(file.fileno()) if file else None
            if is_locked or (is_locked is None and idle > OLD):
                shutil.rmtree(place, ignore_errors=True)


def _lock(file: int) -> bool | None:
    """True if this process holds the lock now; None if there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; Lustre and some network disks
        return None
    return True


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[tuple[Path, int]]:
    """A context with (a locked hidden folder beside `path`, the mode of a new file). The folder is
    removed at the end; errors name `path`."""
    name = path.name.encode()[:200].decode(errors="ignore")  # names have 255 bytes at most
    with contextlib.ExitStack() as stack, _naming(path):
        while True:
            place = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=path.parent))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            file = stack.enter_context((place / LOCK).open("w"))
            if _lock(file.fileno()) is not False and (place / LOCK).exists():
                break  # else somebody took it for an abandoned one
        yield place, stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    sweep(path.parent)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A context in which errors of the hidden folder name `path` instead."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:
            raise  # a message of ours about what is read meanwhile
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        given = error.strerror
        if isinstance(error, shutil.Error):  # a list of (from, to, what failed)
            names, given = [], error.args[0][0][2]
        if names and not any(WORKPLACE.fullmatch(part) for n in names for part in Path(n).parts):
            raise
        reason = given or _reason(error, path.parent)
        raise OSError(error.errno or errno.EIO, reason, str(path)) from None


def _reason(error: OSError, folder: Path) -> str:
    """The reason of an error, also for NumPy's errors, which name only a number of bytes."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < 1 << 16:
            return os.strerror(errno.ENOSPC)
    return " ".join(str(error).split()) or "cannot be written"


def _sync(path: Path) -> None:
    """Flush the file to the disk, if the system can."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(file)

"""common/files.py: a file appears whole or not at all, even if the writer fails or is killed."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common import files
from common.files import check_writable, new_file, new_folder, sweep, write_text
from weights.arrays import write_arrays

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from pathlib import Path
from common.files import {writer}
with {writer}(Path(sys.argv[1])) as place:
    (place if {is_file} else place / "inside").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


@contextlib.contextmanager
def small_disk(size: int = 4096) -> Iterator[None]:
    """Inside, no file can grow beyond `size` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the module's state, as if each test were a new process."""
    monkeypatch.setattr(files, "_swept", set())


def writer(path: Path, is_file: bool) -> subprocess.Popen:
    """Start a process and wait until it is in the middle of writing."""
    code = WRITER.format(writer="new_file" if is_file else "new_folder", is_file=is_file)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"writing\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write_numbers(path: Path) -> None:
    np.zeros(10_000).tofile(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    write_text(path, "old")
    with (
        small_disk(),
        pytest.raises(OSError, match=r"File too large: '.*old.txt'$"),
        new_file(path) as beside,
    ):
        beside.write_text("x" * 10_000)
    with (
        small_disk(),
        pytest.raises(OSError, match=r"10000 requested .*: '.*old.txt'$"),
        new_file(path) as beside,
    ):
        write_numbers(beside)
    with (
        small_disk(),
        pytest.raises(OSError, match=r"folder'$"),
        new_folder(tmp_path / "folder") as folder,
    ):
        write_numbers(folder / "numbers")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["old.txt"]


def test_weights_that_do_not_fit_on_the_disk_are_reported_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with (
        small_disk(),
        pytest.raises(OSError, match=r"^\[Errno 27\] File too large: '.*model.safet"),
    ):
        write_arrays(path, {"a": np.zeros(10_000)})
    with (
        small_disk(),
        pytest.raises(OSError, match=r"^\[Errno 27\] File too large: '.*/folder'$"),
        new_folder(tmp_path / "folder") as folder,
    ):
        write_arrays(folder / path.name, {"a": np.zeros(10_000)})
    assert not os.listdir(tmp_path)


def test_a_message_about_something_that_is_read_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^no config.json in nowhere$"):  # noqa: SIM117
        with new_folder(tmp_path / "out"):
            raise FileNotFoundError("no config.json in nowhere")


def test_an_error_about_something_that_is_read_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), new_file(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("is_file", [True, False])
def test_the_next_writer_removes_the_remains_of_a_killed_one(tmp_path: Path, is_file: bool) -> None:
    kill(writer(tmp_path / "out", is_file))
    kill(writer(tmp_path / "other", is_file))
    assert len(os.listdir(tmp_path)) == 2
    write_text(tmp_path / "done", "whole")
    assert os.listdir(tmp_path) == ["done"]


def test_old_litter_makes_room_before_a_folder_is_written(tmp_path: Path) -> None:
    kill(writer(tmp_path / "out", is_file=False))
    (litter,) = tmp_path.iterdir()
    os.utime(litter, (time.time() - 100,) * 2)
    with new_folder(tmp_path / "out"):
        assert not litter.exists()


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    process = writer(tmp_path / "out", is_file=True)
    write_text(tmp_path / "out", "mine")
    assert len(os.listdir(tmp_path)) == 2
    kill(process)
    assert (tmp_path / "out").read_text() == "mine"


def test_files_of_other_programs_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / ".mine.abcdefgh.new").mkdir()
    (tmp_path / ".mine.abcdefgh.new" / "a").write_text("")
    (tmp_path / ".mine.abcdefgh.new" / "b").write_text("")
    (tmp_path / ".file.abcdefgh.new").write_text("")
    (tmp_path / ".young.abcdefgh.new").mkdir()
    sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 3


def test_without_locks_only_what_is_a_day_old_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_lock", lambda _: None)
    kill(writer(tmp_path / "out", is_file=True))
    (litter,) = tmp_path.iterdir()
    sweep(tmp_path)
    assert litter.exists()
    os.utime(litter, (time.time() - 2 * files.OLD,) * 2)
    monkeypatch.setattr(files, "_swept", set())
    sweep(tmp_path)
    assert not litter.exists()


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out") as folder:
            write_arrays(folder / "model.safetensors", {"a": np.zeros(2)})
            (folder / "inside").mkdir(mode=0o700)
    finally:
        os.umask(old)
    modes = [oct(p.stat().st_mode & 0o777) for p in (tmp_path / "out", *folder_of(tmp_path))]
    assert modes == ["0o750", "0o750", "0o640"]


def folder_of(tmp_path: Path) -> list[Path]:
    return [tmp_path / "out" / "inside", tmp_path / "out" / "model.safetensors"]


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "target")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "target").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with new_file(tmp_path / "pipe") as place:
        assert place == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    for letter in "aé":
        name = letter * (255 // len(letter.encode()))
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_a_place_is_looked_at_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.png", "--grid")
    assert not os.listdir(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--grid .*new is a folder; name a file"):
        check_writable(tmp_path / "new", "--grid")
    with pytest.raises(ValueError, match=r"cannot write to .*file .*; name another --grid"):
        check_writable(tmp_path / "file" / "a.png", "--grid")
    with small_disk(0), pytest.raises(ValueError, match="File too large"):
        check_writable(tmp_path / "a.png", "--grid")

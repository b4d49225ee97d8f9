"""Pipes, missing files and false numbers in token records and sources: one line, and no waiting."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import folders, soundness
from data.examples import LINES, OFFSETS, Examples, ExampleWriter
from data.folders import digest_folder
from data.sources import open_source
from tests.data.samples import picture, write_tar

LISTED = [{"key": str(i), "caption": "a"} for i in range(5)]


def pipe(path: Path) -> bool:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return False


def lie(path: Path, place: int, value: int) -> None:
    offsets = np.fromfile(path, "<i8")
    offsets[place] = value
    offsets.tofile(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: pipe(r / LINES), f"{LINES} is not a file"),
        (lambda r: pipe(r / LINES) or (r / OFFSETS).unlink(), f"{LINES} is not a file"),
        (lambda r: (r / LINES).unlink(), f"{LINES} is not a file"),
        (lambda r: lie(r / OFFSETS, 1, 2**62), f"{LINES} is damaged: line 1 is from byte 0 to 4"),
        (lambda r: lie(r / OFFSETS, 1, -5), f"{LINES} is damaged: line 1 is from byte 0 to -5"),
        (lambda r: (r / OFFSETS).write_bytes(bytes(13)), f"{OFFSETS} does not fit {LINES}"),
    ],
)
def test_the_lines_beside_the_tokens(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    with ExampleWriter(tmp_path) as writer:
        writer.add(LISTED)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        Examples(tmp_path)[0]


def test_checked_records_are_not_noted_in_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = tmp_path / "records"
    records.mkdir()
    os.mkfifo(records / soundness.SEEN)
    soundness.remember(records)
    assert soundness.was_checked(records)


def test_a_user_without_a_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user is unknown to the system."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert soundness._places(tmp_path) == [tmp_path / soundness.SEEN]


def test_a_folder_larger_than_any_model_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("a" * 100)
    before = digest_folder(tmp_path)
    (tmp_path / "b").touch()
    os.truncate(tmp_path / "b", 1 << 40)
    with pytest.raises(ValueError, match=f"{tmp_path / 'b'} is too large"):
        digest_folder(tmp_path)
    monkeypatch.setattr(folders, "MOST_BYTES", 100)
    (tmp_path / "b").unlink()
    assert digest_folder(tmp_path) == before


def test_a_tar_that_ends_in_zeros_without_end_is_read_before_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"0.png": picture(0), "0.txt": b"a bird"})
    os.truncate(tmp_path / "0.tar", 1 << 40)
    source = open_source(tmp_path)
    assert [one.captions[0][0] for one in source] == ["a bird"]
    assert "nothing but zeros before byte" in source.damage["0.tar"]


def test_tars_of_large_blocks_that_were_joined_are_read_whole(tmp_path: Path) -> None:
    """tar -b 4096 pads to 2 MiB."""
    with (tmp_path / "0.tar").open("wb") as file:
        for i in range(3):
            write_tar(tmp_path / "one", {f"{i}.png": picture(i), f"{i}.txt": b"a bird"})
            file.write((tmp_path / "one").read_bytes().ljust(2 << 20, b"\0"))
    (tmp_path / "one").unlink()
    assert tarfile.is_tarfile(tmp_path / "0.tar")
    assert len(open_source(tmp_path)) == 3


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pictures = pa.array([picture(i) for i in range(3)])
    table = pa.table([pictures, pictures, pa.array(list("abc"))], names=["image", "image", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has the column image twice"):
        open_source(tmp_path)

"""Pipes, missing files and false numbers in token records and sources: one line, and no waiting."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources import open_source
from data.stored import folders, record_checks
from data.stored.examples import LINES, OFFSETS, Examples, ExampleWriter
from data.stored.folders import digest_folder
from tests.data.samples import picture, write_pictures, write_tar

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
    os.mkfifo(records / record_checks.SEEN)
    record_checks.mark_checked(records)
    assert record_checks.was_checked(records)


def test_a_user_without_a_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user is unknown to the system."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert record_checks._places(tmp_path) == [tmp_path / record_checks.SEEN]


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
    assert [example.captions[0][0] for example in source] == ["a bird"]
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


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"<html>"])
@pytest.mark.parametrize("named", ["folder", "files"])
def test_a_damaged_parquet_file_among_good_ones_is_named(
    damage: bytes, named: str, tmp_path: Path
) -> None:
    for i in range(3):
        table = pa.table({"image": [picture(i)] * 2, "text": ["a bird"] * 2})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    (tmp_path / "0.parquet").write_bytes(damage)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    if named == "files":
        files = [str(tmp_path / "{0..2}.parquet")]
    source = open_source(tmp_path if named == "folder" else files)
    assert len(source) == 4
    assert [len(source[i].captions) for i in range(4)] == [1] * 4
    assert any("0.parquet is damaged: " in warning for warning in source.warnings())
    for path in tmp_path.iterdir():
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"0\.parquet is not a readable parquet file: "):
        open_source(tmp_path)


def test_a_damaged_parquet_file_beside_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "a.txt").write_text("a bird")
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    source = open_source(tmp_path)
    assert len(source) == 1
    assert any("damaged parquet files: index.parquet" in warning for warning in source.warnings())


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0", "half"])
def test_a_damaged_file_of_a_saved_data_set_is_named(damage: bytes | str, tmp_path: Path) -> None:
    import datasets

    rows = {"image": [picture(i) for i in range(40)], "text": [f"bird {i}" for i in range(40)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path), num_shards=4)
    path = sorted(tmp_path.glob("*.arrow"))[1]
    whole = path.read_bytes()
    path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    source = open_source(tmp_path)
    assert [source[i].captions[0][0] for i in (9, 10)] == ["bird 9", "bird 20"]
    assert len(source) == 30
    assert any("-00001-of-00004.arrow is damaged: " in warning for warning in source.warnings())


@pytest.mark.parametrize(
    "marks", [("config.yaml", "environment.json"), ("records.json", "examples.jsonl")]
)
def test_a_run_and_records_among_the_pictures_are_not_read(
    marks: tuple[str, str], tmp_path: Path
) -> None:
    write_pictures(tmp_path, 3)
    before = open_source(tmp_path, need_captions=False)
    own = tmp_path / "runs" / "mine"
    (own / "grids").mkdir(parents=True)
    for name in marks:
        (own / name).write_text("{}")
    (own / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (own / "grids" / "000001.png").write_bytes(picture(9))
    source = open_source(tmp_path, need_captions=False)
    assert [example.key for example in source] == [example.key for example in before]
    assert source.warnings() == ["skipped 1 folders of runs, records and models: runs/mine"]
    assert len(open_source(own, need_captions=False)) == 1  # unless it is named

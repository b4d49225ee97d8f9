"""Damaged token records are refused, and the message names the file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import records
from data.records import Records, open_records, open_whole
from data.stored.record_checks import SEEN, file_versions, was_checked
from data.text.tokens import train_tokenizer
from tests.data.test_records import write

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Token records with a tokenizer and a fake VQGAN."""
    train_tokenizer(["a cat"], 258, tmp_path / "t")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "config.json").write_text("{}")
    write(tmp_path / "r", tokenizer_folder=tmp_path / "t", vqgan_folder=tmp_path / "v")
    return tmp_path / "r"


def put(folder: Path, file: str, values: Any) -> None:
    """Overwrite a file with other values of the same size and type."""
    dtype = {"u16": "<u2", "u8": "<u1", "i64": "<i8", "f32": "<f4"}[file.split(".")[1]]
    assert np.array(values, dtype).nbytes == (folder / file).stat().st_size
    np.array(values, dtype).tofile(folder / file)


def say(folder: Path, name: str, shape: list[int]) -> None:
    about = json.loads((folder / "records.json").read_text())
    about["arrays"][name]["shape"] = shape
    (folder / "records.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: put(r, "image_tokens.u16", [12] * 12), r"image_tokens\.u16 .*row 0 holds 12"),
        (lambda r: put(r, "text_tokens.u16", [10] * 10), r"text_tokens\.u16 .*allowed is 0 … 9"),
        (lambda r: put(r, "text_lengths.u16", [1, 2, 0, 1, 2]), r"lengths\.u16 .*row 2 holds 0"),
        (lambda r: put(r, "text_lengths.u16", [1, 3, 1, 1, 2]), r"row 1 holds 3; allowed is 1 … 2"),
        (lambda r: put(r, "split.u8", [0, 1, 2]), r"split\.u8 .*row 2 holds 2"),
        (lambda r: put(r, "caption_offsets.i64", [0, 1, 3, 6]), r"offsets\.i64 .*0 to 6, not.* 5"),
        (lambda r: put(r, "caption_offsets.i64", [0, -1, 3, 5]), r"offsets\.i64 .*row 1 holds -1"),
        (lambda r: put(r, "caption_weights.f32", [1, 1, np.nan, 1, 1]), r"f32 .*positive and fin"),
        (lambda r: put(r, "caption_weights.f32", [1, 1, 1, np.inf, 1]), r"f32 .*row 3 holds inf"),
        (lambda r: say(r, "image_tokens", [4, 3]), r"image_tokens\.u16 .*has 3 where"),
        (lambda r: say(r, "text_tokens", [2, 5]), r"text_tokens\.u16 .*it has 5 where"),
        (lambda r: (r / "tokenizer" / "more.json").write_text("x"), "another tokenizer"),
    ],
)
def test_impossible_records_are_refused_when_opened(
    folder: Path, change: Change, message: str
) -> None:
    change(folder)
    with pytest.raises(ValueError, match=message):
        open_records(folder)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("image_tokens.u16", np.arange(12)[::-1]),
        ("image_tokens.u16", np.arange(12).reshape(3, 4).T),
        ("image_tokens.u16", [*range(11), 10]),
        ("text_tokens.u16", np.arange(10).reshape(5, 2)[::-1]),
        ("text_lengths.u16", [2, 2, 2, 1, 2]),
        ("caption_offsets.i64", [0, 2, 3, 5]),
        ("caption_weights.f32", [1, 0.75, 0.25, 0.5, 0.5]),
        ("split.u8", [0, 1, 1]),
    ],
)
def test_every_other_value_is_seen_by_a_whole_reading(
    folder: Path, file: str, values: list[int]
) -> None:
    put(folder, file, values)
    open_records(folder)
    with pytest.raises(ValueError, match=rf"r/{file} is damaged: its digest"):
        open_whole(folder)
    assert not was_checked(folder)


def test_records_without_digests_of_each_file_are_held_to_the_one_of_all(folder: Path) -> None:
    about = json.loads((folder / "records.json").read_text())
    for name in ("digests", "tokenizer_digest", "vqgan_digest"):
        del about[name]
    (folder / "records.json").write_text(json.dumps(about))
    (folder / "examples.i64").unlink()
    open_whole(folder)
    put(folder, "image_tokens.u16", np.arange(12)[::-1])
    with pytest.raises(ValueError, match="r is damaged: the digest of its arrays"):
        open_whole(folder)


def test_another_vqgan_and_a_lost_line_are_seen_by_a_whole_reading(folder: Path) -> None:
    (folder / "vqgan" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="vqgan is another VQGAN"):
        open_whole(folder)
    (folder / "examples.jsonl").write_text("{}\n")
    (folder / "examples.i64").unlink()
    with pytest.raises(ValueError, match=r"examples\.jsonl is damaged: 1 lines for 3 pictures"):
        open_whole(folder)


def test_a_whole_reading_happens_once_for_the_same_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_whole(folder)
    assert was_checked(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert not was_checked(tmp_path / "copy")
    put(folder, "image_tokens.u16", np.arange(12))
    os.utime(folder / "image_tokens.u16", ns=(0, 1))
    assert not was_checked(folder)


def test_where_the_folder_cannot_be_written_the_reading_is_remembered_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / SEEN).mkdir()  # root may write into any folder
    open_whole(folder)
    assert was_checked(folder)
    assert len(list((tmp_path / "cache" / "pastel").iterdir())) == 1
    assert SEEN not in file_versions(folder)


def test_the_command_names_the_damaged_file_and_ends_with_2(folder: Path) -> None:
    command = [sys.executable, "-m", "data.check", str(folder)]
    whole = subprocess.run(command, capture_output=True, text=True)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "3 pictures in 6 arrays, as they were written" in whole.stdout
    put(folder, "split.u8", [0, 1, 1])
    damaged = subprocess.run(command, capture_output=True, text=True)
    assert damaged.returncode == 2
    assert damaged.stderr.count("\n") == 1
    assert f"{folder}/split.u8 is damaged" in damaged.stderr


def test_opening_reads_a_few_places_however_many_there_are(tmp_path: Path) -> None:
    def places(count: int) -> int:
        class Noted(np.ndarray):
            def __getitem__(self, key: Any) -> Any:
                read.append(np.size(key))
                return np.asarray(self)[key]

        from data.stored.record_checks import check_samples

        records: Records = write(
            tmp_path / str(count),
            image_tokens=np.zeros((count, 4), np.int32),
            text_tokens=np.zeros((count, 2), np.int32),
            text_lengths=np.ones(count, np.int32),
            caption_offsets=np.arange(count + 1),
            caption_weights=np.ones(count, np.float32),
            splits=["train"] * count,
            examples=[],
        )
        read: list[int] = []
        arrays = {name: array.view(Noted) for name, array in records.arrays.items()}
        check_samples(records.folder, records.about, arrays)
        return sum(read)

    assert places(1000) == places(5000)


def test_large_records_are_not_read_whole_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(records, "LARGE", 10)
    monkeypatch.setattr(records, "check_whole", lambda *_: pytest.fail("read whole"))
    open_whole(folder)
    assert f"`python -m data.check {folder}` reads all of it" in capsys.readouterr().out

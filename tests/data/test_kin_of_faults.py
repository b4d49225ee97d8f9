"""Kin of faults that were mended before: other types, other archives, other programs' tables."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.pictures.reading import read_pictures
from data.records import Records
from data.sources import open_source
from data.stored.column_files import ColumnFiles, ColumnWriter
from tests.data.samples import picture, write_pictures
from tests.data.test_hostile_sources import rows, saved_table

PICTURES = [picture(i) for i in range(3)]
CAPTIONS = ["a bird", "a cat", "a dog"]


def captions(folder: Path) -> list[str]:
    return [example.captions[0][0] for example in open_source(folder)]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (pa.binary(), pa.dictionary(pa.int32(), pa.string())),  # pandas' categories
        (pa.binary_view(), pa.string_view()),  # newer writers
        (pa.large_binary(), pa.large_string()),
        (pa.struct([("bytes", pa.binary_view())]), pa.list_(pa.string_view())),
    ],
)
def test_pictures_and_texts_are_read_in_all_types_of_arrow(
    image: Any, text: Any, tmp_path: Path
) -> None:
    cells = [{"bytes": p} for p in PICTURES] if pa.types.is_struct(image) else PICTURES
    texts = [[c] for c in CAPTIONS] if pa.types.is_list(text) else CAPTIONS
    table = pa.table({"image": pa.array(cells, image), "caption": pa.array(texts).cast(text)})
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source(tmp_path)
    assert captions(tmp_path) == CAPTIONS
    assert all(reading.pixels is not None for reading in read_pictures(source, 8))
    assert not source.unused.counts


def test_a_column_without_a_name_is_a_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"": PICTURES, "caption": CAPTIONS}), tmp_path / "a.parquet")
    assert captions(tmp_path) == CAPTIONS


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": [1, 2, 3]}, "caption is int64, and one column of texts is needed"),
        ({"caption": [None] * 3}, "caption is null, and one"),
        ({"words": CAPTIONS}, "looked for captions, caption"),
    ],
)
def test_a_column_of_captions_that_holds_no_texts_is_named_with_its_type(
    columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    from data.encode import EncodeConfig, main

    pq.write_table(pa.table({"image": PICTURES, **columns}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        main(EncodeConfig(source=(str(tmp_path),), out=str(tmp_path / "records")))


def test_a_time_that_python_lacks_costs_no_row_of_a_table(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    late = pa.array([2**62] * 3, pa.timestamp("us"))
    zone = pa.array([0] * 3, pa.timestamp("us", tz="Mars/Phobos"))
    names = [f"{i}.png" for i in range(3)]
    table = pa.table({"file_name": names, "caption": CAPTIONS, "late": late, "zone": zone})
    pq.write_table(table, tmp_path / "a.parquet")
    assert captions(tmp_path) == CAPTIONS


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_captions_that_a_program_quoted_are_whole_in_every_table(
    separator: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path, 3)
    texts = ["two\nlines", 'a "stop" sign', f"a{separator}b"]
    with (tmp_path / "captions.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows(
            [["file_name", "caption"], *zip(["0.png", "1.png", "2.png"], texts, strict=True)]
        )
    source = open_source(tmp_path)
    assert captions(tmp_path) == ["two lines", 'a "stop" sign', f"a{separator}b".replace("\t", " ")]
    assert not source.unused.counts


def test_quotes_in_a_table_of_tabs_are_letters_where_nothing_was_quoted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    texts = ['"Stop" says the sign', '"never closed', 'so "it" is']
    lines = "".join(f"{i}.png\t{text}\n" for i, text in enumerate(texts))
    (tmp_path / "captions.tsv").write_text(lines)
    assert captions(tmp_path) == texts


def test_a_cell_beyond_all_bounds_is_named_with_its_row(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    text = "file_name,caption\n0.png,a\n1.png," + "x" * (2 << 20) + "\n"
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(ValueError, match=r"captions\.csv, line 3.* has more than 1,048,576"):
        open_source(tmp_path)


def test_a_damaged_member_of_a_zip_is_one_unreadable_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for i in range(3):
            file.writestr(f"{i}.png", PICTURES[i])
            file.writestr(f"{i}.txt", CAPTIONS[i])
        start = file.getinfo("1.png").header_offset
    content = bytearray(path.read_bytes())
    content[start + 60 : start + 90] = b"\xff" * 30
    path.write_bytes(bytes(content))
    readings = list(read_pictures(open_source(path), 8, need_captions=True))
    assert [reading.pixels is not None for reading in readings] == [True, False, True]
    assert "cannot be unpacked" in readings[1].problem


def test_a_member_of_a_zip_without_a_name_is_passed_over(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("1.png", PICTURES[0])
        file.writestr("1.txt", "a")
        file.writestr("x", "b")
    content = (tmp_path / "a.zip").read_bytes()
    at = content.rindex(b"PK\1\2")
    nameless = bytearray(content)
    nameless[at + 28 : at + 30] = b"\0\0"  # the length of the name "x", which becomes a comment
    nameless[at + 32 : at + 34] = b"\1\0"
    (tmp_path / "a.zip").write_bytes(bytes(nameless))
    assert captions(tmp_path) == ["a"]


@pytest.mark.parametrize("files", [5, "x", {"a": 1}, True])
def test_a_saved_data_set_without_a_list_of_files_is_refused(files: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json has no list of files"):
        open_source(tmp_path)


def test_a_setting_of_reading_that_nobody_can_use_names_the_records(tmp_path: Path) -> None:
    about = {"reading": {"background": "no colour"}}
    records = Records(tmp_path, about, *[np.zeros(0)] * 6)
    with pytest.raises(ValueError, match=r"records\.json is damaged: of reading, background"):
        _ = records.reading


@pytest.mark.parametrize("place", ["source", "records"])
def test_a_folder_whose_name_is_not_utf_8_is_read_and_written(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "d\udce9mo"
    folder.mkdir()
    if place == "source":
        saved_table(tmp_path / "t", {"image": rows(), "caption": ["a"] * 4}).rename(folder / "t")
        assert captions(folder / "t") == ["a"] * 4
        return
    writer = ColumnWriter(folder)
    writer.add([{"size": 3}, {"size": 4}])
    writer.close()
    columns = ColumnFiles(folder, 2)
    assert columns.names == {"size"}
    assert list(columns.values("size")) == [3, 4]


def test_a_downloaded_set_has_its_splits_and_no_copies_of_map(tmp_path: Path) -> None:
    """The folder in which `datasets` keeps what load_dataset made."""
    table = pa.table({"image": [picture(i) for i in range(2)], "text": ["a bird", "a cat"]})
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    for name in ("set-train-00000-of-00002", "set-train-00001-of-00002", "set-test", "cache-12ab"):
        with pa.ipc.new_stream(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    splits = [example.split for example in open_source(tmp_path)]
    assert splits == ["test"] * 2 + ["train"] * 4

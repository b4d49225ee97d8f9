"""Every column of a source is stored beside the records and can be filtered. Training's rules
choose examples, whose order is a function of seed and position only."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.split_names import TRAIN
from data import encode
from data import filter as filtering
from data.encoding.config import EncodeConfig
from data.encoding.tokenise import PictureEncoder
from data.filter import FilterConfig
from data.mixture import open_sets, open_training
from data.records import Records, open_records
from data.sources import open_source
from data.stored import column_files
from data.stored.column_files import ColumnFiles, ColumnWriter
from tests.data.layouts import i2d_tfrecord, put
from tests.data.samples import picture, write_tar

COUNT = 40


def about(i: int) -> dict[str, Any]:
    """A row with columns of every type. Some columns are missing in some rows."""
    return {
        "caption": f"noise number {i}",
        "similarity": i / 100,
        "nsfw": "UNLIKELY" if i % 3 else "LIKELY",
        "is_art": i % 2 == 0,
        "tags": ["a", "b"] if i % 2 else None,
        "long": "x" * 500,
        "exif": {"iso": i},
        **({"mixed": i} if i < 20 else {"mixed": "none"}),
        "big": 1 << 70,
        "odd \udc80": "\ud800",
    }


@pytest.fixture
def run(
    tmp_path: Path, encoder: PictureEncoder, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Records]:
    """A function that encodes a tar of pictures with these rows."""
    members: dict[str, bytes] = {}
    for i in range(COUNT):
        members |= {f"{i:02}.png": picture(i), f"{i:02}.json": json.dumps(about(i)).encode()}
    write_tar(tmp_path / "source.tar", members)
    (tmp_path / "vqgan").mkdir()
    monkeypatch.setattr(encode, "open_encoder", lambda folder, tried_codes: encoder)

    def make(name: str, **changed: Any) -> Records:
        given: dict[str, Any] = {
            "source": (str(tmp_path / "source.tar"),),
            "vocab_size": 300,
            "text_length": 8,
        }
        given |= {"out": str(tmp_path / name), "vqgan": str(tmp_path / "vqgan")}
        encode.main(EncodeConfig(**given | changed))
        return open_records(tmp_path / name)

    return make


def test_every_column_is_kept_with_its_type_whatever_the_shards(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_files, "ROWS", 16)
    records = run("one")
    files = sorted((records.folder / "columns").glob("*"))
    assert [pq.read_metadata(file).num_rows for file in files] == [16, 16, 8]
    kinds = {f.name: f.type for f in pq.read_schema(files[0])}
    assert (kinds["similarity"], kinds["is_art"]) == (pa.float64(), pa.bool_())
    assert (kinds["mixed"], kinds["width"]) == (pa.int64(), pa.int64())
    rows = list(records.columns.rows())
    assert rows[3]["tags"] == '["a", "b"]'
    assert (rows[2]["exif"], rows[2]["long"]) == ('{"iso": 2}', "x" * 500)
    assert (rows[1]["mixed"], rows[30]["mixed"], rows[0]["big"]) == (1, "none", str(1 << 70))
    assert list(records.columns.values("similarity")) == [i / 100 for i in range(COUNT)]
    assert [dict(row)["width"] for row in rows] == [12] * COUNT
    other = run("two", shard_size=7)
    for file in files:
        same = other.folder / "columns" / file.name
        assert same.read_bytes() == file.read_bytes()


def test_columns_travel_through_reuse_and_filters(run: Callable[..., Records]) -> None:
    records = run("one", held_out=0.0)
    reused = run("two", reuse=str(records.folder), held_out=0.0, text_length=9)
    assert list(reused.columns.rows()) == list(records.columns.rows())
    out = records.folder.with_name("chosen")
    rules = ("similarity>=0.1", "nsfw=UNLIKELY", "is_art=True", "exif~iso")
    filtering.main(FilterConfig(str(records.folder), str(out), rules))
    kept = [i for i in range(10, COUNT) if i % 3 and i % 2 == 0]
    chosen = open_records(out)
    assert [example["key"] for example in chosen.examples] == [f"{i:02}" for i in kept]
    assert list(chosen.columns.rows()) == [list(records.columns.rows())[i] for i in kept]
    with pytest.raises(ValueError, match=r"no example has the column clip; there are .*similarity"):
        filtering.main(FilterConfig(str(records.folder), str(out) + "2", ("clip>1",)))


def test_training_takes_the_examples_that_meet_the_rules_in_an_order_of_the_seed(
    run: Callable[..., Records],
) -> None:
    records = run("one", held_out=0.1)
    rules = ("similarity>=0.1", "words>=3")
    sets = open_sets(str(records.folder), rules)
    rows = records.rows(TRAIN)
    wanted = [row for row in rows if row >= 10]
    assert sets.num_training == len(wanted) < len(rows)
    held_out = sets.first.rows("held_out")
    assert held_out.tolist() == records.rows("held_out").tolist()
    assert [line.split()[0] for line in sets.table[2:4]] == list(rules)
    stream = open_training(sets, lambda step: 4 * step, seed=3)
    assert not hasattr(stream, "parts")
    epoch = stream.rows[np.argsort(stream.rows)]
    assert epoch.tolist() == wanted
    again = open_training(open_sets(str(records.folder), rules), lambda step: 4 * step, seed=3)
    for step in (7, 2, 30):
        jax.tree.map(np.testing.assert_array_equal, stream.at(step), again.at(step))
    assert open_sets(str(records.folder)).digests == {"records": records.digest}
    other = open_sets(str(records.folder), ("similarity>=0.2", "words>=3"))
    assert other.digests["filter of records"] != sets.digests["filter of records"]
    both = open_sets(f"[{records.folder}:2,{records.folder}:1]", rules)
    assert both.num_training == 2 * len(wanted)
    with pytest.raises(ValueError, match="leaves nothing of .*one to train on: similarity>=2"):
        open_sets(str(records.folder), ("similarity>=2",))


def test_damaged_columns_are_named(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path)
    writer.add([{"a": 1}, {}, {"b": float("nan")}])
    writer.close()
    assert list(ColumnFiles(tmp_path, 3).values("a")) == [1, None, None]
    with pytest.raises(ValueError, match="columns is damaged: it has 3 rows for 4 pictures"):
        list(ColumnFiles(tmp_path, 4).values("a"))
    file = tmp_path / "columns" / "000000.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="columns is damaged: "):
        ColumnFiles(tmp_path, 3).check()
    assert not list(ColumnFiles(tmp_path / "none", 3).values("a"))


def test_rows_without_any_column_are_counted(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path)
    writer.add([{}, {}])
    writer.close()
    assert list(ColumnFiles(tmp_path, 2).rows()) == [{}, {}]


def test_tables_keep_lists_times_and_numbers_and_name_bytes(tmp_path: Path) -> None:
    columns = {
        "jpg": [picture(i, kind="JPEG") for i in range(2)],
        "caption": ["a", "b"],
        "embedding": pa.array([[1.0, 2.0], [3.0, 4.0]]),
        "when": pa.array([1_500_000_000_000_000_001, None], pa.timestamp("ns", tz="Nowhere/City")),
        "mask": [b"1", b"2"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = open_source(tmp_path)
    kept = source[0].columns
    assert kept["embedding"] == "[1.0, 2.0]"
    assert kept["when"]
    assert "mask" not in kept
    assert "skipped 1 columns of bytes beside the pictures: mask" in source.warnings()
    more = {name: columns[name] for name in reversed(columns)}  # the same columns in another order
    pq.write_table(pa.table(more), tmp_path / "b.parquet")
    assert [e.captions[0][0] for e in open_source(tmp_path)] == ["a", "b", "a", "b"]
    (tmp_path / "tf").mkdir()
    i2d_tfrecord(tmp_path / "tf")
    assert open_source(tmp_path / "tf")[0].columns["caption"] == "bird 0"
    put(tmp_path / "csv" / "1.jpg", picture(0, kind="JPEG"))
    put(tmp_path / "csv" / "m.csv", f"file_name,text,note\n1.jpg,a,{'y' * 70_000}\n")
    example = open_source(tmp_path / "csv")[0]
    assert any("column note beyond 65,536 letters" in note for note in example.notes)

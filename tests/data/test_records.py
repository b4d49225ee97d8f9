"""Token records on disk."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batches import open_batches
from data.encoding import writing
from data.encoding.writing import Part, write_records
from data.records import Records, compare_splits, open_records
from data.stored.records_json import ARRAYS


def write(out: Path, **changed: Any) -> Records:
    values: dict[str, Any] = {
        "image_tokens": np.arange(12, dtype=np.int32).reshape(3, 4),
        "text_tokens": np.arange(10, dtype=np.int32).reshape(5, 2),
        "text_lengths": np.array([1, 2, 2, 1, 2], np.int32),
        "caption_offsets": np.array([0, 1, 3, 5]),
        "caption_weights": np.array([1, 0.25, 0.75, 0.5, 0.5], np.float32),
        "splits": ["train", "tone", "train"],
        "examples": [{"key": str(i), "caption": "é\u2028\x85"} for i in range(3)],
        "source": str(out.parent / "pictures"),
        "codebook_size": 12,
        "text_vocab_size": 10,
    }
    of_part = {field.name for field in fields(Part)}
    given = (values | changed).items()
    part = Part(**{name: value for name, value in given if name in of_part})
    write_records(out, part, **{name: value for name, value in given if name not in of_part})
    return open_records(out)


def test_written_records_are_read(tmp_path: Path) -> None:
    records = write(tmp_path / "r", hello="world")
    assert len(records) == 3
    assert records.image_tokens.dtype == records.text_tokens.dtype == np.uint16
    assert records.image_tokens.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert records.caption_offsets.tolist() == [0, 1, 3, 5]
    assert records.caption_weights.tolist() == [1, 0.25, 0.75, 0.5, 0.5]
    assert records.text_lengths.tolist() == [1, 2, 2, 1, 2]
    assert records.split_names == ("tone", "train")
    assert records.rows("train").tolist() == [0, 2]
    assert records.rows("tone").tolist() == [1]
    assert records.rows("gender").tolist() == []
    assert [e["caption"] for e in records.examples] == ["é\u2028\x85"] * 3
    sizes = records.grid_size, records.image_length, records.text_length
    assert sizes == (2, 4, 2)
    assert (records.codebook_size, records.text_vocab_size) == (12, 10)
    assert records.about["counts"] == {"tone": 1, "train": 2}
    assert records.about["hello"] == "world"


def test_arrays_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    records = write(tmp_path / "r")
    assert not records.image_tokens.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        records.image_tokens[0, 0] = 1


def test_the_codes_that_pictures_have_are_known(tmp_path: Path) -> None:
    records = write(tmp_path / "r")
    used = records.used_codes()
    assert len(used) == records.codebook_size
    assert set(np.flatnonzero(used)) == set(records.image_tokens.ravel().tolist())


def test_a_large_vocabulary_gets_wider_numbers(tmp_path: Path) -> None:
    text_tokens = np.full((5, 2), 100_000, np.int32)
    records = write(tmp_path / "r", text_tokens=text_tokens, text_vocab_size=100_001)
    assert records.text_tokens.tolist() == text_tokens.tolist()


def test_the_digest_tells_contents_apart_and_nothing_else(tmp_path: Path) -> None:
    first, again = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", splits=["train", "train", "tone"])
    assert first.digest == again.digest != other.digest


def test_the_source_is_found_from_any_place_and_after_a_move(tmp_path: Path) -> None:
    write(tmp_path / "r")
    (tmp_path / "moved").mkdir()
    (tmp_path / "r").rename(tmp_path / "moved" / "r")
    expected = str(tmp_path / "moved" / "pictures")
    assert open_records(tmp_path / "moved" / "r").sources == [expected]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_write_about", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("only copy")
    with pytest.raises(ValueError, match="holds something else"):
        write(tmp_path / "r")
    assert (tmp_path / "r" / "thesis.txt").read_text() == "only copy"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert len(write(tmp_path / "r")) == 3


def test_missing_records_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no token records in .*python -m data\.encode"):
        open_records(tmp_path)


def test_a_short_array_is_refused_with_numbers(tmp_path: Path) -> None:
    write(tmp_path / "r")
    (tmp_path / "r" / "image_tokens.u16").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"image_tokens\.u16 has 4 bytes, not 24"):
        open_records(tmp_path / "r")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r")
    path = tmp_path / "r" / "records.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99, this Pastel reads 1"):
        open_records(tmp_path / "r")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "holds a list, not a JSON object"),
        ("{", "Expecting property name"),
        ('{"format": 1}', "grid_size is None, not of type int"),
        ({"digest": 3}, "digest is 3, not of type str"),
        ({"split_names": [1, 2]}, "split_names are not all text"),
        ({"arrays": {}}, "arrays does not say the type and shape of image_tokens"),
        ({"arrays": {name: {"type": [], "shape": [1, 2]} for name in ARRAYS}}, "of image_tokens"),
    ],
)
def test_a_damaged_description_is_refused_with_the_fix(
    tmp_path: Path, content: str | dict[str, Any], why: str
) -> None:
    about = write(tmp_path / "r").about
    text = content if isinstance(content, str) else json.dumps(about | content)
    (tmp_path / "r" / "records.json").write_text(text)
    with pytest.raises(ValueError, match=rf"records\.json is damaged: .*{why}.* encode again"):
        open_records(tmp_path / "r")


def test_names_that_are_no_utf8_come_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    records = write(tmp_path / "r", examples=[{"file": name}] * 3, source=str(tmp_path / name))
    assert list(records.examples) == [{"file": name}] * 3
    assert records.sources == [str(tmp_path / name)]


def test_a_start_from_weights_says_when_held_out_pictures_may_have_trained_them(
    tmp_path: Path,
) -> None:
    old, new, gone = (str(tmp_path / name) for name in ("old", "new", "gone"))
    splits = ["held_out", "train", "train"]
    write(tmp_path / "old", splits=splits, held_out_by="pixels")
    write(tmp_path / "new", splits=splits, held_out_by="look 1")
    assert compare_splits(new, new, "w") == []
    assert "w was trained on: by another rule its own" in compare_splits(old, new, "w")[0]
    (unknown,) = compare_splits(gone, new, "w")
    assert unknown.startswith("if w was trained on some of these pictures, it may know held-out")
    assert unknown.endswith("if all are new to it, nothing is wrong")
    write(tmp_path / "named", held_out_by="look 1")
    assert compare_splits(old, tmp_path / "named", "w") == []


@pytest.mark.parametrize(
    ("theirs", "ours", "how"),
    [
        ({"fit": "crop"}, {"fit": "auto"}, "its own were chosen with --fit crop, these with auto"),
        ({"fit": "auto"}, {"fit": "auto"}, ""),
        ({}, {"fit": "auto"}, ""),  # records from before the setting
        ({"background": "white"}, {"background": "black"}, "--background white, these with black"),
        (0.05, 0.3, "it held out 0.05 of its pictures, these are 0.3"),
        (0.3, 0.05, ""),
    ],
)
def test_other_squares_and_a_larger_share_hold_out_pictures_that_were_trained_on(
    theirs: Any, ours: Any, how: str, tmp_path: Path
) -> None:
    for name, content in (("theirs", theirs), ("ours", ours)):
        write(tmp_path / name, splits=["held_out", "train", "train"], held_out_by="look 1")
        path = tmp_path / name / "records.json"
        about = json.loads(path.read_text())
        if isinstance(content, float):
            about["recipe"] = {**about.get("recipe", {}), "held_out": content}
        else:
            about["reading"] = content
        path.write_text(json.dumps(about))
    lines = compare_splits(str(tmp_path / "theirs"), tmp_path / "ours", "w")
    assert len(lines) == bool(how)
    assert all(how in line for line in lines)


def test_a_few_rows_of_large_records_do_not_have_all_of_them_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "r").folder
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("only Linux tells")

    def in_any_order() -> set[str]:
        """Names of the files that are mapped with the advice not to read ahead."""
        found, name = set(), ""
        for line in maps.read_text(errors="replace").splitlines():  # a name may have any bytes
            if str(folder) in line:
                name = Path(line).stem
            elif line.startswith("VmFlags") and name:
                found |= {name} if "rr" in line.split() else set()
                name = ""
        return found

    small = open_records(folder)
    assert not in_any_order()
    monkeypatch.setattr("data.records.READ_AHEAD", 0)
    large = open_records(folder)
    assert small.examples[0] == large.examples[0]
    assert {"image_tokens", "text_tokens", "examples"} <= in_any_order()
    assert "split" not in in_any_order()  # it is read whole
    del small
    open_batches(large, "train", 1, seed=0, window=4)
    assert not in_any_order() & set(large.arrays)

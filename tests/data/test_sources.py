"""Folders, tars and saved data sets as sources, hostile ones included."""

import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.pictures.reading import read_pictures
from data.sources import open_source
from data.sources.captions import texts
from data.sources.pairs import folder as beside
from tests.data.samples import picture, write_pictures, write_tar

MakeFolder = Callable[..., Path]


def test_a_folder_pairs_pictures_with_texts_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.PNG").write_bytes(picture(1))
    (tmp_path / "b" / "x.txt").write_text(" a  dog\n")
    (tmp_path / "a.v2.jpg").write_bytes(picture(2, kind="JPEG"))
    (tmp_path / "a.v2.json").write_text(json.dumps({"caption": "a cat", "tone": "3", "no": []}))
    (tmp_path / "._b.jpg").write_bytes(b"of macOS")
    examples = {example.key: example for example in open_source(tmp_path)}
    assert sorted(examples) == ["a.v2", "b/x"]
    assert examples["b/x"].captions == (("a dog", 1.0),)
    assert examples["b/x"].file == "b/x.PNG"
    assert examples["a.v2"].captions == (("a cat", 1.0),)
    assert examples["a.v2"].attributes == {"tone": "3"}


def test_the_order_depends_on_names_alone(tmp_path: Path) -> None:
    names = [f"{i:02d}" for i in range(20)]
    for folder, order in (("one", names), ("two", names[::-1])):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / f"{name}.png").write_bytes(picture(int(name)))
            (tmp_path / folder / f"{name}.txt").write_text(name)
    one, two = (open_source(tmp_path / folder) for folder in ("one", "two"))
    assert [e.key for e in one] == [e.key for e in two]


def test_tars_read_as_img2dataset_writes_them(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "00000.tar",
        {
            "000000001.jpg": picture(1, kind="JPEG"),
            "000000001.txt": b"from text",
            "000000001.json": json.dumps({"caption": "from json", "url": "u", "width": 9}).encode(),
            "000000002.webp": picture(2, kind="WEBP"),
            "000000002.txt": b"\xef\xbb\xbfonly text",
            "000000003.json": b'{"caption": "no picture"}',
        },
    )
    one, two = open_source(tmp_path)
    assert one.captions == (("from json", 1.0),)
    assert (one.attributes, one.file, one.member) == (
        {"url": "u", "width": "9"},
        "00000.tar",
        "000000001.jpg",
    )
    assert two.captions == (("only text", 1.0),)
    np.testing.assert_array_equal(two.picture(8), open_source(tmp_path)[1].picture(8))


def test_a_tar_a_glob_a_list_and_a_range_name_the_same_source(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"{i}.tar", {f"{i}.png": picture(i), f"{i}.txt": b"x"})
    names = ["*.tar", "{0..2}.tar", "{0,1,2}.tar"]
    for name in names:
        assert [e.key for e in open_source(f"{tmp_path}/{name}")] == ["0", "1", "2"]
    assert len(open_source(tmp_path / "1.tar")) == 1


def test_a_data_set_saved_by_datasets_reads_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(3)],
        "text": ["zero", "", "two"],
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "table"))
    source = open_source(tmp_path / "table")
    assert [e.captions for e in source] == [(("zero", 1.0),), (), (("two", 1.0),)]
    assert source[2].picture(8).shape == (8, 8, 3)
    parts = datasets.DatasetDict({"train": table, "val": table})
    parts.save_to_disk(str(tmp_path / "splits"))
    assert [e.split for e in open_source(tmp_path / "splits")] == ["train"] * 3 + ["validation"] * 3


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_in_a_tar_is_never_run(tmp_path: Path) -> None:
    trap = pickle.dumps(_Touch(tmp_path / "pwned"))
    endings = ("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "cls", "png.pyd", "json.gz")
    members = {"1.png": picture(1), "1.txt": b"a dog"} | {f"1.{e}": trap for e in endings}
    write_tar(tmp_path / "0.tar", members | {"2.png": trap, "2.txt": trap, "2.json": trap})
    readings = list(read_pictures(open_source(tmp_path), 8))
    assert [r.pixels is not None for r in readings] == [True, False]
    assert not (tmp_path / "pwned").exists()


def test_links_devices_and_climbing_names_do_no_harm(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(1))
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for name, kind in (("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
        info = tarfile.TarInfo("3.png")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    with pytest.raises(ValueError, match="no pictures"):
        open_source(tmp_path / "tars")
    write_tar(tmp_path / "tars" / "1.tar", {"../../4.png": picture(4), "../../4.txt": b"x"})
    assert [e.key for e in open_source(tmp_path / "tars")] == ["../../4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.png", "tars"]


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "f.png")
    (tmp_path / "g.png").symlink_to("f.png")
    os.mkfifo(tmp_path / "t.tar")
    assert [(e.key, e.captions) for e in open_source(tmp_path, need_captions=False)] == [("a", ())]
    with pytest.raises(ValueError, match=r"is not a \.tar file"):
        open_source(tmp_path / "t.tar")


def test_huge_or_deep_captions_do_not_pass(tmp_path: Path) -> None:
    deep = b"[" * 200_000
    write_tar(
        tmp_path / "0.tar",
        {
            "1.png": picture(1),
            "1.json": deep,
            "1.txt": b"still here",
            "2.png": picture(2),
            "2.txt": b"x" * (2 << 20),
        },
    )
    one, two = open_source(tmp_path)
    assert one.captions == (("still here", 1.0),)
    assert two.captions == ()


def test_a_tar_that_was_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for i in range(4):
        members |= {f"{i}.txt": b"x", f"{i}.png": picture(i, (40, 40))}
    path = write_tar(tmp_path / "0.tar", members)
    content = path.read_bytes()
    for kept in (len(content) * 3 // 4, 8000, 6800, 6656):
        path.write_bytes(content[:kept])
        source = open_source(tmp_path)
        assert 0 < len(source) < 4
        assert "0.tar" in source.damage
        assert all(r.pixels is not None for r in read_pictures(source, 8))


def test_a_file_beyond_the_limit_is_not_read_whole(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "MAX_BYTES", 20)
    assert len(open_source(make_folder(1))[0].data) == 21


def test_captions_keep_usable_weights_and_drop_the_rest() -> None:
    captions = ["a", "", "b", 3, "c", "d", "e"]
    weights = [0.5, 1, float("nan"), 1, -1, 0, 2]
    assert texts.from_columns({"captions": captions, "weights": weights}).captions == (
        ("a", 0.5),
        ("e", 2.0),
    )
    assert texts.from_columns({"captions": ["a", "b"], "weights": [1]}).captions == (
        ("a", 1.0),
        ("b", 1.0),
    )
    assert texts.from_columns({"caption": None}).captions == ()


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _empty(folder: Path) -> Path:
    return folder


def _uncaptioned(folder: Path) -> Path:
    (folder / "1.png").write_bytes(picture(1))
    return folder


def _mixed(folder: Path) -> Path:
    write_tar(folder / "0.tar", {"1.png": picture(1)})
    return _uncaptioned(folder)


def _compressed(folder: Path) -> Path:
    (folder / "0.tar.gz").write_bytes(b"x")
    return folder / "0.tar.gz"


def _no_tar(folder: Path) -> Path:
    (folder / "0.tar").write_bytes(b"x" * 3000)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "there is no .*nowhere"),
        (_empty, "no pictures in .*: looked for"),
        (
            _uncaptioned,
            "no captions in .*: found a folder of pictures with 1 pictures, but none .* .json",
        ),
        (_mixed, "1 tars and also 1 loose pictures"),
        (_compressed, "is not a .tar file"),
        (_no_tar, r"no pictures in .*\(0.tar: no tar header .its checksum is wrong., at byte 0\)"),
    ],
)
def test_a_source_that_cannot_be_used_says_why(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(make(tmp_path))


def test_pictures_without_captions_open_when_none_are_needed(tmp_path: Path) -> None:
    assert len(open_source(_uncaptioned(tmp_path), need_captions=False)) == 1


def test_reading_keeps_the_order_and_tells_the_bad_ones(make_folder: MakeFolder) -> None:
    folder = make_folder(600)
    (folder / "300.png").write_bytes(b"broken")
    source = open_source(folder)
    readings = list(read_pictures(source, 8))
    assert [r.index for r in readings] == list(range(600))
    assert [r.name for r in readings if r.pixels is None] == ["300.png"]
    chosen = list(read_pictures(source, 8, [5, 300, 2]))
    assert [r.index for r in chosen] == [5, 300, 2]
    np.testing.assert_array_equal(chosen[0].pixels, readings[5].pixels)
    np.testing.assert_array_equal(chosen[2].pixels, readings[2].pixels)
    assert "not a JPEG" in chosen[1].problem


def test_commas_in_a_caption_of_the_last_column_are_its_own(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    lines = ["file_name,text", "0.png,a red, round ball", '1.png,"one, two"', "2.png,plain"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    captions = [example.captions[0][0] for example in open_source(tmp_path)]
    assert captions == ["a red, round ball", "one, two", "plain"]


def test_columns_that_the_first_line_does_not_name_are_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    lines = ["file_name,text,license", "0.png,a red, round ball,CC0", "1.png,plain,CC0"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 2
    (sentence,) = [line for line in source.unused.sentences() if "beyond" in line]
    assert "skipped 1 columns beyond those of the first line" in sentence
    assert "metadata.csv row 1: CC0" in sentence


def test_lines_of_json_that_are_no_object_are_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    lines = ['{"file_name": "0.png", "text": "a"}', "7", '{"file_name": "1.png", "text": "b"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 2
    assert any("metadata.jsonl row 2: None" in line for line in source.unused.sentences())


GOOD = ['{"file_name": "0.png", "text": "a"}', '{"file_name": "1.png", "text": "b"}']


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_of_json_costs_only_its_picture(tmp_path: Path, place: int) -> None:
    write_pictures(tmp_path, 3)
    lines = list(GOOD)
    lines.insert(place, '{"file_name": "2.png", "text": "cut of')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 2
    (sentence,) = [line for line in source.unused.sentences() if "damaged" in line]
    where = f"metadata.jsonl line {place + 1}: "
    assert re.fullmatch(rf"skipped 1 damaged lines: {where}\w.* \(character 3\d\)", sentence)


def test_a_table_of_damaged_lines_is_refused_by_its_first(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    (tmp_path / "metadata.jsonl").write_text("\n".join([GOOD[0], "{'file_name':", "{'text':"]))
    message = r"metadata.jsonl, line 2: Expecting property name .*; mend the line, or remove it"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "captions.tsv"])
def test_a_line_without_end_is_refused(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path, 1)
    with (tmp_path / name).open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(ValueError, match=f"{name}, line 1 has more than 16,777,216 characters"):
        open_source(tmp_path)

"""Variants of the layouts in docs/layouts.md: repeated names, other places, zips."""

import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from command_line.parser import parse_config
from data.encode import reading_of
from data.encoding.config import EncodeConfig
from data.pictures.reading import read_pictures
from data.sources import Source, open_source
from tests.data.layouts import LAYOUTS, put, write_parquet
from tests.data.samples import picture, write_pictures, write_tar

N = 4
IN_ZIPS = ("txt", "hf_csv", "coco", "flickr8k", "csv", "apart", "classes", "json")


def pictures(folder: Path, start: int = 0) -> None:
    for i in range(N):
        put(folder / f"{i}.jpg", picture(start + i, kind="JPEG"))


def opened(source: Path, *flags: str) -> Source:
    config = parse_config(EncodeConfig, [f"--source={source}", *flags])
    return open_source(config.source, config=reading_of(config))


def captions(source: Source) -> dict[str, list[str]]:
    """Name of each picture → its captions. Asserts that all pictures are readable."""
    found = {}
    for reading in read_pictures(source, 8, need_captions=True):
        assert reading.pixels is not None, reading.problem
        assert reading.example is not None
        found[reading.name] = [text for text, _ in reading.example.captions]
    return found


@pytest.mark.parametrize("name", IN_ZIPS)
def test_a_zip_is_read_as_the_files_that_it_holds(name: str, tmp_path: Path) -> None:
    _, make, _, count = LAYOUTS[name]
    (tmp_path / "plain").mkdir()
    make(tmp_path / "plain")
    plain = opened(tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in sorted((tmp_path / "plain").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "plain"))
    packed = opened(tmp_path / "all.zip")
    assert captions(packed) == captions(plain)
    assert sum(map(len, captions(packed).values())) == count
    assert packed.about == f"{plain.about} in 1 zip"
    assert packed.files == [tmp_path / "all.zip"]


def test_zips_beside_one_another_and_a_loose_table_belong_together(tmp_path: Path) -> None:
    for number, kind in enumerate(("cat", "dog")):
        with zipfile.ZipFile(tmp_path / f"{kind}.zip", "w") as file:
            file.writestr("0.jpg", picture(number, kind="JPEG"))
    assert captions(opened(tmp_path)) == {
        "cat.zip/0.jpg": ["a photo of a cat"],
        "dog.zip/0.jpg": ["a photo of a dog"],
    }
    put(tmp_path / "list.csv", "file,caption\ncat/0.jpg,tom\ndog.zip/0.jpg,rex\n")
    (tmp_path / "cat.zip").rename(tmp_path / "cats.zip")
    with zipfile.ZipFile(tmp_path / "cat.zip", "w") as file:
        file.writestr("cat/0.jpg", picture(0, kind="JPEG"))
    (tmp_path / "cats.zip").unlink()
    found = captions(opened(tmp_path))
    assert found == {"cat.zip/cat/0.jpg": ["tom"], "dog.zip/0.jpg": ["rex"]}


def test_an_encrypted_or_damaged_member_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for i in range(2):
            file.writestr(f"{i}.png", picture(i))
            file.writestr(f"{i}.txt", "a")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"\x89PNG") + 40] ^= 255  # the first picture's checksum is now wrong
    (tmp_path / "x.zip").write_bytes(content)
    first, second = read_pictures(opened(tmp_path / "x.zip"), 8)
    assert "0.png cannot be unpacked" in first.problem
    assert second.pixels is not None


@pytest.mark.parametrize("packed", [False, True])
def test_endings_of_another_case_are_other_files(packed: bool, tmp_path: Path) -> None:
    members = {"IMG_1.jpg": picture(1, kind="JPEG"), "IMG_1.JPG": picture(2, kind="JPEG")}
    members |= {"IMG_1.txt": b"lower", "IMG_1.TXT": b"upper"}
    for name, data in members.items():
        put(tmp_path / "loose" / name, data)
    source = opened(write_tar(tmp_path / "0.tar", members) if packed else tmp_path / "loose")
    found = {name.rpartition("/")[2]: texts for name, texts in captions(source).items()}
    assert found == {"IMG_1.jpg": ["lower"], "IMG_1.JPG": ["upper"]}
    assert not source.warnings()


def test_a_caption_file_that_no_picture_takes_is_named(tmp_path: Path) -> None:
    for name, data in (("A.jpg", picture(1, kind="JPEG")), ("A.txt", b"a"), ("A.TXT", b"b")):
        put(tmp_path / name, data)
    source = opened(tmp_path)
    assert captions(source) == {"A.jpg": ["a"]}
    assert source.warnings() == ["skipped 1 caption files without a picture: A.TXT"]


def test_both_forms_of_an_accent_keep_their_own_captions(tmp_path: Path) -> None:
    forms = {form: unicodedata.normalize(form, "café") for form in ("NFC", "NFD")}
    for number, (form, name) in enumerate(forms.items()):
        put(tmp_path / f"{name}.jpg", picture(number, kind="JPEG"))
        put(tmp_path / f"{name}.txt", form)
    assert captions(opened(tmp_path)) == {f"{n}.jpg": [form] for form, n in forms.items()}


def test_members_with_and_without_a_dot_in_front_belong_together(tmp_path: Path) -> None:
    members = {"./a/1.png": picture(1), "a/1.txt": b"one", "././a/2.png": picture(2)}
    tar = write_tar(tmp_path / "0.tar", {**members, "./a/2.txt": b"two"})
    assert [example.captions[0][0] for example in opened(tar)] == ["one", "two"]


@pytest.mark.parametrize("packed", [False, True])
def test_folders_named_as_splits_are_splits(packed: bool, tmp_path: Path) -> None:
    theirs = {"TRAIN": "train", "restval": "train", "val": "validation", "test2017": "test"}
    for number, name in enumerate(theirs):
        data = {"0.png": picture(number), "0.txt": b"a"}
        if packed:
            write_tar(tmp_path / f"birds-{name}-000.tar", data)
        else:
            for file, content in data.items():
                put(tmp_path / name / file, content)
    found = {reading.split for reading in opened(tmp_path)}
    assert found == set(theirs.values())
    assert {example.split for example in opened(tmp_path, "--splits=none")} == {""}


def test_pictures_of_one_name_in_two_splits_are_told_apart_by_them(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        pictures(tmp_path / f"{split}2017", N * number)
        images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(N)]
        annotations = [{"image_id": i, "caption": f"{split} {i}"} for i in range(N)]
        content = json.dumps({"images": images, "annotations": annotations})
        put(tmp_path / "annotations" / f"captions_{split}2017.json", content)
    found = captions(opened(tmp_path))
    assert found["train2017/1.jpg"] == ["train 1"]
    assert found["val2017/1.jpg"] == ["val 1"]


@pytest.mark.parametrize(
    "path", ["{folder}/pics/{i}.jpg", "C:\\data\\pics\\{i}.jpg", "/other/machine/{i}.jpg", "{i}"]
)
@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.jsonl"])
def test_paths_of_tables_are_found_where_one_says(path: str, name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "pics")
    table = [{"p": path.format(folder=tmp_path, i=i), "words": f"bird {i}"} for i in range(N)]
    rows = [json.dumps(row) if name.endswith("jsonl") else "\t".join(row.values()) for row in table]
    head = [] if name.endswith("jsonl") else ["p\twords"]
    put(tmp_path / "tables" / name, "\n".join([*head, *rows]))
    if path != "{i}":
        with pytest.raises(ValueError, match=r"list\.\w+ names pictures that .* --pictures=FOLDER"):
            opened(tmp_path / "tables" / name)
    for source in (tmp_path / "tables" / name, tmp_path / "tables"):
        found = captions(opened(source, f"--pictures={tmp_path / 'pics'}"))
        assert found == {f"{i}.jpg": [f"bird {i}"] for i in range(N)}


def test_a_parquet_of_structs_may_hold_paths_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "files")
    images = [{"bytes": None, "path": f"files/{i}.jpg"} for i in range(N)]
    texts = [[{"raw": f"bird {i}"}, {"raw": "a bird"}] for i in range(N)]
    write_parquet(tmp_path / "all.parquet", {"image": images, "sentences": texts})
    assert captions(opened(tmp_path))["files/1.jpg"] == ["bird 1", "a bird"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"url": "https://e.com/1.jpg", "caption": "a"}, "by their addresses"),
        ({"caption": "a", "encoding": "[1, 2]"}, "python -m data.encoded"),
        ({"image": "/9j/4AAQSkZJRg", "caption": "a"}, "base64 text in column image"),
        ({"image": [[0, 255] * 4] * 8, "caption": "a"}, "pixels of pictures as numbers in column"),
    ],
)
def test_tables_of_pictures_elsewhere_say_so(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    put(tmp_path / "list.jsonl", json.dumps(content) + "\n")
    for source in (tmp_path, tmp_path / "list.jsonl"):
        with pytest.raises(ValueError, match=message):
            opened(source)


def test_folders_whose_names_say_nothing_are_classes_only_when_asked(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        pictures(tmp_path / name)
    with pytest.raises(ValueError, match=r"classes \(n01440764, n01443537 …\), say --kind=classes"):
        opened(tmp_path)
    assert len(opened(tmp_path, "--kind=classes")) == 2 * N


def test_files_of_captions_beside_folders_of_classes_are_not_lost_in_silence(
    tmp_path: Path,
) -> None:
    for name in ("cat", "dog"):
        pictures(tmp_path / name)
    put(tmp_path / "list.csv", "file,caption\n0.jpg,of which?\n")
    message = "skipped 1 files of captions or tables that name no picture: list.csv"
    assert opened(tmp_path).warnings() == [message]


def test_captions_of_a_table_in_another_encoding_are_read_and_said(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = "".join(f"{i}.jpg,красная птица {i}\r\n" for i in range(N))
    for encoding, flags in (("utf-16-le", ()), ("koi8_r", ("--caption_encoding=koi8_r",))):
        put(tmp_path / "list.csv", ("file_name,text\r\n" + rows).encode(encoding))
        source = opened(tmp_path, *flags)
        assert captions(source)["1.jpg"] == ["красная птица 1"]
        assert source[1].notes == (f"captions were read as {encoding}",)


@pytest.mark.parametrize("name", ["list.csv", "metadata.jsonl", "captions.json"])
def test_the_first_rows_of_a_table_may_name_pictures_that_are_gone(
    name: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path, 2)
    gone = [(f"gone{i}.png", f"picture {i}") for i in range(250)]
    rows = [*gone, ("0.png", "a bird"), ("1.png", "a cat")]
    if name == "list.csv":
        text = "image,caption\n" + "".join(f"{path},{caption}\n" for path, caption in rows)
    else:
        objects = [{"file_name": path, "text": caption} for path, caption in rows]
        text = json.dumps(objects) if name == "captions.json" else ""
        text = text or "".join(json.dumps(row) + "\n" for row in objects)
    (tmp_path / name).write_text(text)
    source = open_source(tmp_path)
    assert [example.captions[0][0] for example in source] == ["a bird", "a cat"]
    assert "skipped 250 rows whose picture is not there" in source.warnings()[0]


def test_a_path_of_windows_is_named_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no C:\\Users\\me\\pictures"):
        open_source(r"C:\Users\me\pictures")


def test_the_encoding_of_tars_is_guessed_from_several_of_them(tmp_path: Path) -> None:
    words = ("красная птица", "чёрный кот", "собака", "два яблока")
    plain = {f"{i}.{e}": d for i in range(4) for e, d in (("png", picture(i)), ("txt", b"a bird"))}
    write_tar(tmp_path / "0.tar", plain)
    texts = {f"{i}.txt": word.encode("koi8_r") for i, word in enumerate(words)}
    write_tar(tmp_path / "1.tar", {**plain, **texts})
    found = [example.captions[0][0] for example in open_source(tmp_path)]
    assert found == ["a bird"] * 4 + list(words)

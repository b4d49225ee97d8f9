"""Folders of pictures as people have them: each is read, or one line says what to do."""

import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from command_line.parser import parse_config
from data.encoding.config import EncodeConfig, reading_of
from data.pictures.reading import read_pictures
from data.sources import Source, open_source
from data.sources.captions.names import in_template, words_in_name
from data.sources.captions.texts import caption_columns, texts_of
from tests.data.layouts import put, write_parquet
from tests.data.samples import picture, write_tar

N = 3


def opened(*source: Path | str, flags: tuple[str, ...] = ()) -> Source:
    config = parse_config(EncodeConfig, ["--source", *map(str, source), *flags])
    return open_source(config.source, config=reading_of(config))


def captions(source: Source) -> list[list[str]]:
    """The captions of each picture; all pictures are readable."""
    readings = list(read_pictures(source, 8))
    assert not [r.problem for r in readings if r.problem]
    return [[text for text, _ in r.example.captions] for r in readings if r.example]


def pictures(folder: Path, name: str = "{}.jpg", count: int = N) -> None:
    for i in range(count):
        put(folder / name.format(i), picture(i, kind="JPEG"))


def lines(row: str, count: int = N) -> str:
    return "".join(row.format(i) for i in range(count))


TABLES = {
    "a caption with another separator": ("a.csv", lines('{0}.jpg,"bird; no | {0}"\n')),
    "unquoted commas and no names of columns": ("a.csv", lines("{0}.jpg,bird, no {0}\n")),
    "names of columns with dots": ("a.csv", "image.path,caption.en\n" + lines("{0}.jpg,b {0}\n")),
    "no names of columns and no endings": ("a.csv", lines("{0},one bird {0}\n")),
    "a space after the name": ("a.txt", lines("{0}.jpg one bird {0}\n")),
    "a colon after the name": ("captions.txt", lines("{0}.jpg: one bird {0}\n")),
    "Excel's first line": ("a.csv", "sep=;\r\nfile;caption\r\n" + lines("{0}.jpg;bird {0}\r\n")),
    "a full stop and a stroke in names": ("a.csv", "Nr.;Datei;Größe/Stil;Text\r\n" + lines(
        "{0};figuren\\{0}.jpg;a/b;bird {0}\r\n"
    )),
    "blank lines above": ("a.csv", "\n\nfile,caption\n" + lines("{0}.jpg,bird {0}\n\n")),
    "a comment and a title above": ("a.csv", "# mine, 2024\nBirds\nfile,caption\n" + lines(
        "{0}.jpg,bird {0}\n"
    )),
    "names of columns after a mark": ("a.csv", "# file,caption\n" + lines("{0}.jpg,bird {0}\n")),
    "pandas' columns": ("a.json", json.dumps({
        "file": {str(i): f"{i}.jpg" for i in range(N)},
        "caption": {str(i): f"bird {i}" for i in range(N)},
    })),
    "pandas' lists": ("a.json", json.dumps({
        "file": [f"{i}.jpg" for i in range(N)], "caption": [f"bird {i}" for i in range(N)]
    })),
    "pandas' split": ("a.json", json.dumps({
        "columns": ["file", "caption"], "index": [0, 1, 2],
        "data": [[f"{i}.jpg", f"bird {i}"] for i in range(N)],
    })),
    "pairs": ("captions.json", json.dumps([[f"{i}.jpg", f"bird {i}"] for i in range(N)])),
    "pairs in lines": ("a.jsonl", lines('["{0}.jpg", "bird {0}"]\n')),
    "JSON lines in a .json": ("a.json", lines('{{"file": "{0}.jpg", "caption": "bird {0}"}}\n')),
    "JSON in a .jsonl": ("a.jsonl", json.dumps(
        [{"file": f"{i}.jpg", "caption": f"bird {i}"} for i in range(N)], indent=1
    )),
    "a list in one line of a .jsonl": ("a.jsonl", json.dumps(
        [{"file": f"{i}.jpg", "caption": f"bird {i}"} for i in range(N)]
    )),
    "names before a conversion": ("a.csv", "file,caption\n" + lines("{0}.PNG,bird {0}\n")),
    "objects by name": ("a.json", json.dumps({
        f"{i}.jpg": {"p": f"one bird {i}", "seed": 1} for i in range(N)
    })),
    "lists of objects by name": ("a.json", json.dumps({
        f"{i}.jpg": [{"caption": f"bird {i}"}] for i in range(N)
    })),
    "licences before the pictures": ("a.json", json.dumps({
        "licenses": [{"id": 1, "name": "free"}],
        "items": [{"image": f"{i}.jpg", "caption": f"bird {i}"} for i in range(N)],
    })),
    "Label Studio's export": ("project-1.json", json.dumps([
        {"id": i + 7, "annotations": [{"result": [
            {"value": {"text": [f"bird {i}"]}, "from_name": "caption", "type": "textarea"}
        ]}], "data": {"image": f"/data/upload/1/{i}.jpg"}, "meta": {}, "total_annotations": 1}
        for i in range(N)
    ])),
    "Instagram's export": ("posts_1.json", json.dumps([
        {"media": [{"uri": f"media/posts/{i}.jpg", "title": f"bird {i}"}]} for i in range(N)
    ])),
    "a post's caption beside its pictures": ("posts_1.json", json.dumps([
        {"media": [{"uri": f"media/{i}.jpg", "title": ""}], "title": f"bird {i}"}
        for i in range(N)
    ])),
    "VIA's project": ("via.json", json.dumps({"_via_settings": {"ui": {}}, "_via_img_metadata": {
        f"{i}.jpg1234": {"filename": f"{i}.jpg", "file_attributes": {"caption": f"bird {i}"}}
        for i in range(N)
    }})),
    "VIA's table": ("via.csv", "filename,file_size,file_attributes\n" + lines(
        '{0}.jpg,9,"{{""caption"":""bird {0}""}}"\n'
    )),
    "addresses of files": ("a.csv", "file,caption\n" + lines("file:///C:/x/{0}%2Ejpg,bird {0}\n")),
    "a column of captions of one's own": ("a.csv", "file,text_lang,blip_caption\n" + lines(
        "{0}.jpg,en,bird {0}\n"
    )),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_a_table_is_read_however_a_program_wrote_it(what: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    put(tmp_path / TABLES[what][0], TABLES[what][1])
    found = captions(opened(tmp_path))
    assert len(found) == N
    assert [len(texts) for texts in found] == [1] * N
    assert [texts[0][-1] for texts in found] == [str(i) for i in range(N)]


@pytest.mark.parametrize("name", ["COCO_train2014_{:012d}.jpg", "{:03d}.jpg", "{}.jpg"])
def test_numbers_without_their_zeros_name_pictures(name: str, tmp_path: Path) -> None:
    pictures(tmp_path, name)
    put(tmp_path / "a.csv", "image_id,caption\n" + lines("{0}.0,bird {0}\n"))
    source = opened(tmp_path)
    assert captions(source) == [[f"bird {i}"] for i in range(N)]
    assert source[0].notes == ("pictures were found by the numbers in column image_id",)


def test_a_number_is_no_name_if_another_column_has_the_names(tmp_path: Path) -> None:
    pictures(tmp_path)
    put(tmp_path / "a.csv", "id,Bild,caption\n" + lines("{0}0,{0}.jpg,bird {0}\n"))
    assert captions(opened(tmp_path)) == [[f"bird {i}"] for i in range(N)]


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(["a cat's, bed", 'one "cat"']),
        str(["a cat's, bed", 'one "cat"']),
        '["a cat\'s, bed"\n \'one "cat"\']',
        json.dumps([{"raw": "a cat's, bed"}, {"raw": 'one "cat"'}]),
    ],
)
def test_a_list_that_was_written_as_text_is_a_list(cell: str) -> None:
    assert texts_of(cell) == ["a cat's, bed", 'one "cat"']


@pytest.mark.parametrize("text", ["[a cat]", "[1, 2]", "a [cat]", "[]", "['a' and 'b']", "[", "['"])
def test_brackets_alone_make_no_list(text: str) -> None:
    assert texts_of(text) == [text]


def test_columns_about_captions_hold_none() -> None:
    about = ["text_lang", "negative_prompt", "caption_id", "text_length", "caption_score"]
    assert caption_columns(about) == []
    assert caption_columns([*about, "long_caption", "Caption.en"]) == [
        ["long_caption", "Caption.en"]
    ]
    assert caption_columns(["long_caption", "caption"]) == [["caption"]]


def test_captions_in_a_table_and_beside_pictures_are_read_together(tmp_path: Path) -> None:
    for table in ("list.csv", "metadata.csv"):
        folder = tmp_path / table
        pictures(folder, count=6)
        for i in range(3):
            put(folder / f"{i}.txt", f"bird {i}")
        put(folder / table, "file_name,text\n" + "3.jpg,dog 3\n4.jpg,\n")
        put(folder / "4.txt", "dog 4")
        source = opened(folder)
        found = dict(zip([example.file for example in source], captions(source), strict=True))
        expected = {f"{i}.jpg": [f"{'bird' if i < 3 else 'dog'} {i}"] for i in range(5)}
        assert found == expected
        assert source.num_captioned == 5
        assert source.warnings() == ["skipped 1 pictures that no table names: 5.jpg"]
        assert {file.name for file in source.files} >= {table, "0.txt", "0.jpg", "4.txt"}


def test_the_name_of_a_picture_is_not_its_caption(tmp_path: Path) -> None:
    pictures(tmp_path)
    for i in range(N):  # Google's Takeout, in which few pictures have a description
        about = {"title": f"{i}.jpg", "description": "a bird" if i else ""}
        put(tmp_path / f"{i}.jpg.supplemental-metadata.json", json.dumps(about))
    problems = [r.problem for r in read_pictures(opened(tmp_path), 8, need_captions=True)]
    note = "no caption; captions that are the name of a picture's file are skipped"
    assert problems == [note, "", ""]


def test_a_table_that_cannot_be_read_harms_no_captions_beside_pictures(tmp_path: Path) -> None:
    pictures(tmp_path)
    for i in range(N - 1):
        put(tmp_path / f"{i}.txt", "a bird")
    put(tmp_path / "stats.json", '{"count": ')
    source = opened(tmp_path)
    assert source.num_captioned == N - 1
    assert "skipped 1 tables that cannot be read" in " ".join(source.warnings())


def test_folders_with_one_caption_each(tmp_path: Path) -> None:
    for i in range(N):
        pictures(tmp_path / f"dog {i}", count=3)
        put(tmp_path / f"dog {i}" / "caption.txt", f"a dog\ndog {i}")
    assert captions(opened(tmp_path)) == [["a dog", f"dog {i}"] for i in range(N) for _ in range(3)]


def test_captions_in_folders_of_their_own_are_found_by_their_names(tmp_path: Path) -> None:
    pictures(tmp_path / "jpg")
    for i in range(N):
        put(tmp_path / "text" / f"class {i % 2}" / f"{i}.txt", f"flower {i}")
    assert captions(opened(tmp_path)) == [[f"flower {i}"] for i in range(N)]


def test_one_folder_of_one_thing_is_a_class_when_asked(tmp_path: Path) -> None:
    pictures(tmp_path / "my_dog")
    with pytest.raises(ValueError, match="name their folder after it, and say --kind=classes"):
        opened(tmp_path / "my_dog")
    assert captions(opened(tmp_path / "my_dog", flags=("--kind=classes",)))[0] == [
        "a photo of a my dog"
    ]
    with pytest.raises(ValueError, match=r"classes \(my_dog\), say --kind=classes"):
        opened(tmp_path)


def test_a_template_says_an_before_a_vowel() -> None:
    said = {
        word: in_template("A a {}, a {}", word) for word in ("owl", "hat", "unicorn", "Umbrella")
    }
    assert said["owl"] == "A an owl, an owl"
    assert said["hat"] == "A a hat, a hat"
    assert said["unicorn"] == "A a unicorn, a unicorn"
    assert said["Umbrella"] == "A an Umbrella, an Umbrella"
    assert in_template("A {} on a hill", "owl") == "An owl on a hill"


def test_pictures_may_be_named_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    pictures(folder)
    for i in range(N):
        put(folder / f"{i}.txt", f"bird {i}")
    for names in (
        [folder / f"{i}.jpg" for i in range(2)],
        [folder / f"{i}.{ending}" for i in range(2) for ending in ("jpg", "txt")],
        [folder / "[01].jpg"],
    ):
        source = opened(*names)
        assert captions(source) == [["bird 0"], ["bird 1"]]
        assert source.warnings() == []


def test_archives_videos_and_parquet_beside_pictures_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path / "pics")
    for i in range(N):
        put(tmp_path / "pics" / f"{i}.txt", "a bird")
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars/a.tar", {"1.jpg": picture(1, kind="JPEG"), "1.txt": b"a"})
    for folder in (tmp_path / "pics", tmp_path / "tars"):
        with zipfile.ZipFile(folder / "more.zip", "w") as file:
            file.writestr("1.jpg", picture(1))
        put(folder / "b.MOV", b"x")
        put(folder / "c.tar.gz", b"x")
        columns: dict[str, list[Any]] = {"image": [picture(1)], "caption": ["a"]}
        write_parquet(folder / "d.parquet", columns)
        write_parquet(folder / "e.parquet", {"url": ["u"]})  # what img2dataset writes
        message = " ".join(opened(folder).warnings())
        assert "2 archives beside what is read" in message
        assert "c.tar.gz, more.zip" in message
        assert "1 videos: b.MOV" in message
        assert "1 parquet files of pictures beside what is read" in message
        assert "e.parquet" not in message


SAID = {
    "a spreadsheet": (("0.jpg", "captions.xlsx"), "x", "captions.xlsx is a spreadsheet: save it"),
    "other endings": (("0.jpg", "0.tags"), "x", r"there are 1 \.tags files of the same names"),
    "a list of addresses": (("urls.txt",), "https://e.com/a.jpg\n", "by their addresses"),
    "one name in two folders": (("a/0.jpg", "b/0.jpg", "t.csv"), "file,caption\n0.jpg,a\n",
                                "t.csv says 0.jpg, which may be a/0.jpg or b/0.jpg"),
    "a saved data set below": (("x/state.json",), "{}", "x in it is a saved data set: name that"),
    "files of other programs": (("data.h5",), "x", r"its files are 1 \.h5"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_a_folder_that_is_not_read_is_told_what_it_lacks(what: str, tmp_path: Path) -> None:
    names, content, message = SAID[what]
    for name in names:
        put(tmp_path / name, picture(0, kind="JPEG") if name.endswith(".jpg") else content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_a_caption_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    pictures(tmp_path)
    for i in range(N - 1):
        put(tmp_path / f"{i}.txt", "a bird")
    (tmp_path / "2.txt").symlink_to("nowhere.txt")
    problems = [r.problem for r in read_pictures(opened(tmp_path), 8, need_captions=True)]
    assert problems == ["", "", "no caption; a caption file cannot be read"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (unicodedata.normalize("NFD", "schöner_Käfer-3"), "schöner käfer"),
        ("लाल_सेब_12", "लाल सेब"),
        ("แอปเปิ้ล 3", "แอปเปิ้ล"),
        ("سيارة-٣", "سيارة"),
        ("می\u200cروم_۲", "می\u200cروم"),
    ],
)
def test_names_in_any_script_keep_their_words_whole(name: str, words: str) -> None:
    assert words_in_name(name) == words

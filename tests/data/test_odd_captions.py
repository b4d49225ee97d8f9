"""Captions in files, tables and names that other programs write."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from data.pictures.decoding import UnreadablePictureError, read_picture
from data.sources import ReadingConfig, open_source
from data.sources.captions import texts
from data.sources.captions.names import caption_from_name
from tests.data.samples import picture, write_tar


def captions(source: str | Path) -> list[list[str]]:
    opened = open_source(source, need_captions=False)
    return [[text for text, _ in opened[i].captions] for i in range(len(opened))]


@pytest.mark.parametrize(
    "text",
    [
        "0 0.5 0.5 0.25 0.25\n17 0.1 0.25 0.3 1e-3\n\n",
        "3 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4\n",
        r"{\rtf1\ansi{\fonttbl\f0 Helvetica;}\f0 a red bird}",
    ],
    ids=["boxes", "polygons", "rtf"],
)
def test_labels_of_a_detector_and_documents_are_no_captions(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "a.txt").write_text(text)
    (note,) = open_source(tmp_path, need_captions=False)[0].notes
    assert "a caption file " in note
    assert captions(tmp_path) == [[]]
    (tmp_path / "a.txt").write_text("7\n1 2 3\n2 cats 0.5 0.5 0.1")
    assert captions(tmp_path) == [["7", "1 2 3", "2 cats 0.5 0.5 0.1"]]


def test_a_second_caption_file_that_differs_is_counted(tmp_path: Path) -> None:
    about = json.dumps({"caption": "a bird"}).encode()
    members = {"1.png": picture(0), "1.json": about, "1.txt": b"a bird\n"}
    members |= {"2.png": picture(1), "2.json": about, "2.txt": b"a red bird"}
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert source[0].notes == ()
    assert source[1].notes == (
        "captions of a second caption file of the picture, which differ, are not used",
    )


@pytest.mark.parametrize(
    "rows",
    [
        '{"file_name":"1.png","text":"a bird"}{"file_name":"2.png","text":"a cat"}',
        '{\n "file_name": "1.png",\n "text": "a bird"\n}\n{\n "file_name": "2.png",\n'
        ' "text": "a cat"\n}\n',
        '{"file_name":"1.png","text":"a bird"},\n{"file_name":"2.png","text":"a cat"},\n',
    ],
    ids=["without line ends", "indented", "with commas"],
)
def test_json_lines_may_be_written_in_other_lines(rows: str, tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "metadata.jsonl").write_text(rows)
    assert captions(tmp_path) == [["a bird"], ["a cat"]]


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        (r'"a \"red\" bird, big"', 'a "red" bird, big'),
        (r'"a \"red\", big bird"', 'a "red", big bird'),
        (r'"[""a \""red\"" bird""]"', 'a "red" bird'),
        (r'"C:\birds\"', "C:\\birds\\"),
    ],
    ids=["escaped", "before a comma", "json", "path"],
)
def test_quotes_in_a_csv_may_be_escaped(cell: str, caption: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    (tmp_path / "captions.csv").write_text(f"image,caption\n1.png,{cell}\n")
    assert captions(tmp_path) == [[caption]]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a%20red%20bird.png", "a red bird"),
        ("WhatsApp Image 2023-01-01 at 1.2.3.jpeg", ""),
        ("Bildschirmfoto 2023-01-01 um 10.11.12.png", ""),
        ("Screen Shot 2019-01-01 at 10.11.12 AM.png", ""),
        ("Capture d\u2019e\u0301cran 2023-01-01 à 10.11.png", ""),
        ("Снимок экрана 2023-01-01 в 10.11.12.png", ""),
        ("screenshot of a cat.png", "screenshot of a cat"),
        ("WhatsApp Image of a dog.png", "whats app image of a dog"),
    ],
)
def test_names_of_programs_are_no_captions(name: str, caption: str) -> None:
    assert [text for text, _ in caption_from_name(name)] == ([caption] if caption else [])


def test_a_quoted_glob_of_everything_in_a_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    (tmp_path / "1.txt").write_text("a bird")
    assert captions(f"{tmp_path}/*") == [["a bird"]]


@pytest.mark.parametrize(
    ("name", "why"),
    [("a.tar", r"a\.tar: compressed by gzip; unpack it first"), ("a.zip", r"in\.zip in it is")],
)
def test_archives_in_archives_are_named(name: str, why: str, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("1.png", picture(1))
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("in.zip", inner.getvalue())
    else:
        tar = write_tar(tmp_path / name, {"1.png": picture(0)})
        tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(ValueError, match=why):
        open_source(tmp_path / name)


def test_a_picture_as_base64_is_told() -> None:
    with pytest.raises(UnreadablePictureError, match="a picture as base64 text"):
        read_picture(b"iVBORw0KGgoAAAANSUhEUgAA", 8)


def test_captions_that_names_replace_are_counted(tmp_path: Path) -> None:
    for name in ("a bird", "a cat"):
        (tmp_path / f"{name}.png").write_bytes(picture(1))
    (tmp_path / "a bird.txt").write_text("a robin")
    (tmp_path / "captions.csv").write_text("file,text\na cat.png,a tabby\n")
    source = open_source(tmp_path, config=ReadingConfig(captions="names"))
    assert [source[i].captions[0][0] for i in range(2)] == ["a bird", "a cat"]
    assert source.warnings() == [
        "skipped 2 files of captions, in place of which --captions=names reads names: "
        "a bird.txt, captions.csv"
    ]


@pytest.mark.parametrize("caption", ["\u200b", "\ufeff\ufeff", "\u200d \u2060", "\xad"])
def test_a_caption_that_nobody_sees_is_none(caption: str) -> None:
    assert not texts.weighed([caption]).captions
    assert texts.weighed([f"a{caption}bird"]).captions[0][0].endswith("bird")


def in_lines(folder: Path, name: str, text: str) -> list[list[str]]:
    """The captions that a table of this text gives three pictures."""
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(i))
    (folder / name).write_text(text)
    return captions(folder)


def test_columns_and_keys_that_come_twice_lose_no_caption(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,a{i},b{i},c{i}\n" for i in range(3))
    every = [[f"a{i}", f"b{i}", f"c{i}"] for i in range(3)]
    assert in_lines(tmp_path / "csv", "c.csv", f"image,caption,caption,caption\n{rows}") == every
    rows = "".join(f'{{"file_name":"{i}.png","text":"a{i}","text":"b{i}"}}\n' for i in range(3))
    two = [texts[:2] for texts in every]
    assert in_lines(tmp_path / "lines", "metadata.jsonl", rows) == two
    rows = ",".join(f'"{i}.png": "a{i}", "{i}.png": "b{i}"' for i in range(3))
    assert in_lines(tmp_path / "names", "captions.json", f"{{{rows}}}") == two
    assert in_lines(tmp_path / "beside", "1.json", '{"caption": "a", "caption": "b"}')[1] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("IMG_4711.JPG", "the name of a picture's file"),  # Google Takeout's title
        ("-1 1 -1 -1", "values of attributes"),  # CelebA's list_attr_celeba.txt
        ("0,1,0,0,1,0,0,0,0,1", "values of attributes"),
    ],
)
def test_names_of_files_and_attributes_in_numbers_are_no_captions(caption: str, why: str) -> None:
    result = texts.weighed([caption, "a bird"])
    assert result.captions == (("a bird", 1.0),)
    assert why in result.notes[0]


@pytest.mark.parametrize("caption", ["1 0 1", "a bird.jpg on a desk", "10", "1 2 3"])
def test_numbers_and_names_within_captions_stay(caption: str) -> None:
    assert texts.weighed([caption]).captions == ((caption, 1.0),)


def test_colours_of_terminals_and_byte_order_marks_are_no_letters() -> None:
    assert texts.weighed(["\x1b[31mred\x1b[0m \ufeffbird\x07"]).captions == (("red bird", 1.0),)


def test_a_text_of_marked_parts_is_one_caption(tmp_path: Path) -> None:
    parts = ["a ", {"type": "bold", "text": "red"}, " bird"]
    rows = [{"photo": f"{i}.png", "text": parts if i else "a cat"} for i in range(3)]
    found = in_lines(tmp_path / "chat", "result.json", json.dumps({"messages": rows}))
    assert found == [["a cat"], ["a red bird"], ["a red bird"]]
    assert texts.texts_of([{"type": "text", "text": "a bird"}]) == ["a bird"]


def test_lines_for_one_picture_each_are_not_given_to_all(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for i in range(3):
            (tmp_path / folder / f"{i}.png").write_bytes(picture(i))
        (tmp_path / folder / "captions.txt").write_text("one bird\ntwo birds\nthree birds\n")
    with pytest.raises(ValueError, match=r"a/captions.txt has 3 lines for 3 pictures: .*kind=each"):
        open_source(tmp_path)
    assert len(open_source(tmp_path, need_captions=False)) == 6
    three = [("one bird", 1.0), ("two birds", 1.0), ("three birds", 1.0)]
    assert list(open_source(tmp_path, config=ReadingConfig(kind="each"))[0].captions) == three
    (tmp_path / "b" / "captions.txt").write_text("a bird\n")
    assert list(open_source(tmp_path)[0].captions) == three


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("captions.csv.gz", "captions.csv.gz is compressed: unpack it first"),
        ("captions.yaml", "captions.yaml is not read: save it as CSV or JSON"),
        ("0.xml", "there are 1 .xml files of the same names, which are not read"),
    ],
)
def test_tables_that_are_not_read_are_named(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / name).write_text("0.png: a bird")
    with pytest.raises(ValueError, match=why):
        open_source(tmp_path)


def test_other_endings_of_captions_in_a_tar_are_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.png": picture(1), "1.prompt": b"a bird"})
    with pytest.raises(ValueError, match=r"its other members end in \.prompt; of these none"):
        open_source(tar)


def test_one_damaged_row_of_a_table_costs_one_letter(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "1.png").write_bytes(picture(1))
    rows = "image,caption\n0.png,un café à côté\n".encode() + b"1.png,na\xefve\n"
    (tmp_path / "c.csv").write_bytes(rows)
    assert captions(tmp_path) == [["un café à côté"], ["naïve"]]
    assert open_source(tmp_path)[0].notes == (
        "captions were read as utf-8, with some damaged letters",
    )

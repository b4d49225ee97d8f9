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

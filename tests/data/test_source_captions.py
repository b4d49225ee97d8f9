"""Captions in folders, tars and tables: encodings, lines, column names, weights, splits."""

import json
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.pictures.reading import Notes, read_pictures
from data.sources import ReadingConfig, open_source
from data.sources.base import Unused
from data.sources.captions import texts
from data.sources.captions.names import caption_from_name, words_in_name
from data.sources.captions.splits import split_from
from data.sources.pairs.pairing import pair
from tests.data.samples import picture


def folder_of(path: Path, files: dict[str, bytes | str]) -> Path:
    """Write these files into a folder. The content "picture" stands for a real picture."""
    for i, (name, content) in enumerate(files.items()):
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = picture(i) if content == "picture" else content
        target.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("a red bird’s nest – close up, number {i}", "utf-16", "utf-16"),
        ("a red bird, number {i}", "utf-16-le", "utf-16-le"),
        ("a red bird, number {i}", "utf-16-be", "utf-16-be"),
        ("a red bird’s nest – close up, number {i}", "cp1252", "cp1252"),
        ("café crème à l'été {i}", "latin-1", "cp1252"),
        ("一只红色的鸟 {i}", "gbk", "gb18030"),
        ("красная птица сидит на ветке {i}", "cp1251", "cp1251"),
        ("赤い鳥が枝に止まっている {i}", "shift_jis", "cp932"),
        ("赤い鳥が枝に止まっている {i}", "euc_jp", "euc_jp"),
        ("빨간 새가 나뭇가지에 앉아 있다 {i}", "euc_kr", "cp949"),
        ("a red bird’s nest 一只 {i}", "utf-8-sig", ""),
    ],
)
def test_captions_of_any_encoding_are_read_and_it_is_reported(
    text: str, encoding: str, message: str, tmp_path: Path
) -> None:
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.txt").write_bytes(text.format(i=i).encode(encoding))
    source = open_source(tmp_path)
    assert [e.captions[0][0] for e in source] == [text.format(i=i) for i in range(10)]
    notes = Notes()
    for reading in read_pictures(source, 8):
        notes.add(reading)
    expected = (
        [f"captions were read as {message}: 10 pictures, the first is 0.png"] if message else []
    )
    assert notes.sentences() == expected


def test_an_encoding_that_is_named_is_used(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.txt": "żółty ptak na gałęzi".encode("cp1250")})
    source = open_source(tmp_path, config=ReadingConfig(caption_encoding="cp1250"))
    assert source[0].captions == (("żółty ptak na gałęzi", 1.0),)
    with pytest.raises(ValueError, match="caption_encoding 'klingon' is not an encoding"):
        ReadingConfig(caption_encoding="klingon")


def test_each_line_is_a_caption(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.txt": "\ufeffa bird\r\n\r\n  one bird \nred\n"})
    assert open_source(tmp_path)[0].captions == (("a bird", 1.0), ("one bird", 1.0), ("red", 1.0))


@pytest.mark.parametrize(
    ("about", "captions"),
    [
        ({"TEXT": "a", "license": "b"}, ["a"]),
        ({"prompt": "a"}, ["a"]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        ({"captions": None, "caption": "", "text": "a"}, ["a"]),
        ({"caption_1": "b", "caption_0": "a", "caption_10": "c"}, ["a", "b", "c"]),
        ({"sentences": [{"raw": "a", "tokens": ["x"]}, {"raw": "b"}]}, ["a", "b"]),
        ({"captions": [{"caption": "a", "id": 3}]}, ["a"]),
        ({"sentences": {"raw": ["a", "b"]}}, ["a", "b"]),
        ({"captions": [["a"], ["b", None]]}, ["a", "b"]),
        ({"title": 3, "alt": "a"}, ["a"]),
    ],
)
def test_a_json_may_call_its_captions_anything_known(
    about: Any, captions: list[str], tmp_path: Path
) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.json": json.dumps(about)})
    assert [text for text, _ in open_source(tmp_path)[0].captions] == captions


def test_a_json_without_captions_names_its_keys_and_the_txt_is_asked(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "1.png": "picture",
        "1.json": '{"tags": "x", "id": 3}',
        "2.png": "picture",
    }
    folder_of(tmp_path, files | {"2.json": '{"tags": "x"}', "2.txt": "a bird"})
    one, two = open_source(tmp_path)
    assert (one.captions, one.notes) == ((), ("a JSON has no caption; its keys are tags, id",))
    assert two.captions == (("a bird", 1.0),)


def test_a_column_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.json": '{"caption": "no", "mine": "yes"}'})
    source = open_source(tmp_path, config=ReadingConfig(caption_column="mine"))
    assert source[0].captions == (("yes", 1.0),)


@pytest.mark.parametrize(
    ("weights", "captions"),
    [
        ("[1e39, 1]", [("a", 1.0)]),
        (f"[1{'0' * 400}, 1]", [("b", 1.0)]),
        ("[1e999, 1]", [("b", 1.0)]),
        ("[NaN, 1]", [("b", 1.0)]),
        ("[0, -1]", []),
        ("[true, 3]", [("a", 1.0), ("b", 3.0)]),
        ('["1", 2]', [("b", 2.0)]),
        ("[1e-30, 1e-30]", [("a", 1.0), ("b", 1.0)]),
        ("[1]", [("a", 1.0), ("b", 1.0)]),
        ("0.5", [("a", 1.0), ("b", 1.0)]),
    ],
)
def test_weights_that_cannot_be_added_up_harm_nobody(
    weights: str, captions: list[tuple[str, float]], tmp_path: Path
) -> None:
    folder_of(tmp_path, {"1.png": "picture"})
    (tmp_path / "1.json").write_text(f'{{"captions": ["a", "b"], "weights": {weights}}}')
    (example,) = open_source(tmp_path)
    assert list(example.captions) == captions
    assert example.notes or weights in ("[true, 3]", "0.5")


@pytest.mark.parametrize(
    ("caption", "read"),
    [
        ("Tom &amp; Jerry&#39;s <b>cat</b> &quot;new&quot;", 'Tom & Jerry\'s cat "new"'),
        ("salt &amp;amp; pepper<br/>", "salt & pepper"),
        ('<a href="http://x">a link</a> to <person>', "a link to <person>"),
        ("2 < 3 and I <3 birds & bees", "2 < 3 and I <3 birds & bees"),
    ],
)
def test_html_is_read_as_what_it_means(caption: str, read: str) -> None:
    assert texts.weighed([caption]).captions == ((read, 1.0),)


def test_captions_beyond_a_hundred_are_reported() -> None:
    found = texts.from_lines("\n".join(map(str, range(5000))).encode())
    assert len(found.captions) == 100
    assert found.notes == ["captions beyond the first 100 of a picture are skipped"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *(("TRAIN", "train"), ("restval", "train"), ("0", "train"), (0, "train")),
        *(("val", "validation"), ("val2017", "validation"), ("Dev", "validation"), (2, "test")),
        *(("tone", "tone"), ("tone2", "tone2"), ("gallery", "gallery"), ("", ""), (None, "")),
    ],
)
def test_splits_of_others_are_mapped_by_the_table(theirs: Any, ours: str) -> None:
    assert split_from(theirs) == ours


def test_a_source_s_splits_can_be_left_aside(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.json": '{"caption": "a", "split": "val"}'})
    assert open_source(tmp_path)[0].split == "validation"
    assert open_source(tmp_path, config=ReadingConfig(splits="none"))[0].split == ""


def paired(*names: str) -> dict[str, list[str]]:
    """Name of each picture → its captions."""
    pictures = [i for i, name in enumerate(names) if not name.endswith((".txt", ".json"))]
    pairs = pair(names, pictures, Unused())
    return {names[p.picture]: [names[i] for _, i in p.texts] for p in pairs}


def test_names_match_across_letter_case_and_unicode_forms_without_losing_one() -> None:
    assert paired("IMG_1.jpg", "IMG_1.JPG", "IMG_1.txt") == {
        "IMG_1.jpg": ["IMG_1.txt"],
        "IMG_1.JPG": ["IMG_1.txt"],
    }
    assert paired("a.jpg", "A.jpg", "a.txt", "A.txt") == {"a.jpg": ["a.txt"], "A.jpg": ["A.txt"]}
    assert paired("IMG_1.JPG", "img_1.TXT".lower()) == {"IMG_1.JPG": ["img_1.txt"]}
    accent, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert paired(f"{accent}.jpg", f"{apart}.txt") == {f"{accent}.jpg": [f"{apart}.txt"]}
    assert paired("1.jpg", "1.jpg.txt", "1.b.jpg", "1.caption.txt") == {
        "1.jpg": ["1.jpg.txt"],
        "1.b.jpg": [],
    }


def test_words_are_taken_from_names() -> None:
    assert words_in_name("Brown_Fish-01") == "brown fish"
    assert words_in_name("10_bird") == "bird"
    assert words_in_name("redPanda (2)") == "red panda"
    assert words_in_name("IMG_0001") == "img"
    assert words_in_name("0001") == ""


@pytest.mark.parametrize(
    "name",
    [
        *("IMG_4711.JPG", "DSC00123.jpg", "P1010012.png", "0001.png", "photo (3).jpg"),
        *("Screenshot from 2020-01-01 12-00-00.png", "IMG-20190101-WA0001.jpg"),
        *("d41d8cd98f00b204e9800998ecf8427e.webp", "3f2a9c1e-12ab-4cde-9f01-0a1b2c3d4e5f.png"),
    ],
)
def test_a_name_that_nobody_chose_is_no_caption(name: str) -> None:
    assert not caption_from_name(name)


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        *(("my dog IMG_4711.JPG", "my dog img"), ("a photo of a cat.png", "a photo of a cat")),
        *(("flower10.png", "flower"), ("dumper_mirror-02.png", "dumper mirror")),
        *(("DUCK_final.png", "duck"), ("lemon final v2.jpg", "lemon"), ("final.png", "final")),
        *(("apple - Kopie (2).png", "apple"), ("a final exam.png", "a final exam")),
        *(("t5.png", "t5"), ("mp3 player.png", "mp3 player"), ("fluent 3d.png", "fluent 3d")),
    ],
)
def test_one_chosen_word_makes_a_name_a_caption(name: str, caption: str) -> None:
    assert caption_from_name(name) == ((caption, 1.0),)


def named(path: Path, *, tarred: bool) -> Path:
    """Write three pictures, two of them with meaningful names, and a table of other captions."""
    folder = path / "named"
    names = ("Brown_Fish-01.png", "sub/lemon (2).png", "sub/IMG_0001.png")
    table = "".join(f'{{"file_name": "{name}", "text": "other"}}\n' for name in names)
    folder_of(folder, {**dict.fromkeys(names, "picture"), "metadata.jsonl": table})
    if not tarred:
        return folder
    with tarfile.open(path / "named.tar", "w") as tar:
        for name in names:
            tar.add(folder / name, name)
    return path / "named.tar"


@pytest.mark.parametrize("tarred", [False, True])
def test_names_are_captions_where_they_are_asked_for(tmp_path: Path, tarred: bool) -> None:
    source = open_source(named(tmp_path, tarred=tarred), config=ReadingConfig(captions="names"))
    assert source.num_captioned == 2
    assert {text for e in source for text, _ in e.captions} == {"brown fish", "lemon"}


def test_a_folder_without_captions_says_which_its_names_would_give(tmp_path: Path) -> None:
    folder_of(tmp_path / "x", {"Brown_Fish-01.png": "picture", "IMG_2.png": "picture"})
    message = r'if their names are captions \("brown fish" …\), say --captions=names'
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "x")


def test_names_are_refused_where_there_are_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)], "caption": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"no names of their own: omit --captions=names$"):
        open_source(tmp_path / "x.parquet", config=ReadingConfig(captions="names"))
    folder_of(tmp_path / "y", {"IMG_1.png": "picture"})
    with pytest.raises(ValueError, match=r"their names are numbers, or say what a camera"):
        open_source(tmp_path / "y", config=ReadingConfig(captions="names"))


def test_several_sources_are_one(tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        folder_of(tmp_path / name, {"1.png": "picture", "1.txt": name, "2.png": b"bad", "x.md": ""})
    source = open_source([str(tmp_path / "mine"), str(tmp_path / "yours")])
    assert [e.key for e in source] == ["mine/1", "mine/2", "yours/1", "yours/2"]
    assert [e.file for e in source][2] == "yours/1.png"
    assert source.num_captioned == 2
    assert len(source.files) == 6
    tars = []
    from tests.data.samples import write_tar

    for i in range(3):
        tars.append(str(write_tar(tmp_path / f"{i}.tar", {f"{i}.png": picture(i)})))
    assert [e.key for e in open_source(tars, need_captions=False)] == ["0", "1", "2"]


def test_tables_that_name_no_picture_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a bird\thttp://x.org/1.jpg\n")
    with pytest.raises(ValueError, match=r"a\.tsv names pictures by their addresses"):
        open_source(tmp_path)
    (tmp_path / "a.tsv").unlink()
    (tmp_path / "a.jsonl").write_text('{"caption": "a", "encoding": [1, 2]}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl holds image tokens \(column encoding\)"):
        open_source(tmp_path)


def test_an_unknown_kind_or_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.png": "picture", "1.txt": "a"})
    with pytest.raises(ValueError, match=r"no kind 'tars' of source; there are: arrow, tar, "):
        open_source(tmp_path, config=ReadingConfig(kind="tars"))
    with pytest.raises(ValueError, match="does not look like kind 'tar'"):
        open_source(tmp_path, config=ReadingConfig(kind="tar"))

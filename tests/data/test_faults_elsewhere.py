"""Faults of other programs in reading pictures and captions do not occur here. Each test names the
issue; docs/layouts.md says what happens here."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.pictures.reading import read_pictures
from data.sources import ReadingConfig, Source, open_source
from tests.data.samples import picture, write_pictures, write_tar

FAULTS = [
    (
        "`._1.jpg`, `__MACOSX`, `.ipynb_checkpoints`, `@eaDir` among pictures, also in tars",
        "OpenNeuroOrg/openneuro#2520 bghira/SimpleTuner#1622 d8ahazard/sd_dreambooth_extension#44",
        "skipped; in a tar they are counted",
    ),
    (
        "`a.input.jpg` beside `a.output.txt` in a tar",
        "mlfoundations/open_clip#480",
        "one sample, if both are the only ones of `a`",
    ),
    (
        "dots in the names of members and folders",
        "huggingface/datasets#7144 webdataset/webdataset#237",
        "part of the name",
    ),
    (
        "members of a sample that are not side by side in a tar",
        "webdataset/webdataset#407 Stability-AI/StableCascade#25",
        "one sample",
    ),
    (
        "one name in several tars, or twice in one",
        "webdataset/webdataset#157 webdataset/webdataset#286",
        "a sample each",
    ),
    (
        "a zip beside its metadata.jsonl; captions as LLaVA's `conversations`",
        "huggingface/datasets#7337 huggingface/datasets#5761",
        "read; the answers are captions",
    ),
    ("`train/1.jpg` in train/metadata.jsonl", "huggingface/diffusers#3674", "found"),
    (
        "a caption of a csv that begins with a quote which nothing closes",
        "iejMac/video2dataset#117 rewicks/ersatz#1",
        "the rows after it are rows",
    ),
    ("line ends in quoted captions", "rom1504/img2dataset#283", "read as spaces"),
    ("`nan`, `None`, `null` as captions", "modelscope/ms-swift#306", "no caption, counted"),
    (
        "a shard of a range is missing",
        "rom1504/img2dataset#174",
        "one line that names it, and the glob of those that are there",
    ),
    (
        "a tar that a killed download left",
        "rom1504/img2dataset#289",
        "what is whole is read, and the place is named",
    ),
    (
        "a text file of paths alone",
        "CompVis/taming-transformers#80",
        "one line that asks for the folder",
    ),
    (
        "rows without a picture in a parquet file",
        "huggingface/datasets#3856",
        "counted and named",
    ),
    (
        "a pickled type in a parquet file",
        "huggingface/datasets#4840",
        "never loaded; the other columns are read",
    ),
    (
        "commas in the captions of a csv without quotes and without names of columns",
        "docarray/docarray#1044",
        "part of the caption",
    ),
    (
        "a picture that is not in metadata.jsonl",
        "Georgefwt/AquaLoRA#8",
        "its caption beside it is used; without one it is counted and named",
    ),
    (
        'mirrored pictures whose captions say "left" or "right"',
        "SPRIGHT-T2I/SPRIGHT#7 saahiluppal/catr#28",
        "`--flips` does not mirror them, and counts them",
    ),
]
"""(fault, issues, what happens here): a table of docs/layouts.md."""
APPLE = b"\0\5\x16\7" + bytes(80)
"""The content of the file ._NAME that macOS writes beside NAME."""


def captions(source: Source) -> dict[str, list[str]]:
    return {example.key: [text for text, _ in example.captions] for example in source}


def test_members_of_macos_in_a_tar_are_no_pictures(tmp_path: Path) -> None:
    """OpenNeuroOrg/openneuro#2520."""
    members = {"./._1.png": APPLE, "./1.png": picture(1), "./._1.txt": APPLE, "./1.txt": b"a bird"}
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert captions(source) == {"1": ["a bird"]}
    assert source.warnings() == [
        "skipped 2 hidden members, such as macOS adds: a.tar/._1.png, a.tar/._1.txt"
    ]


def test_copies_that_programs_keep_in_a_folder_are_not_read(tmp_path: Path) -> None:
    """bghira/SimpleTuner#1622, d8ahazard/sd_dreambooth_extension#44."""
    write_pictures(tmp_path, 2)
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(f"bird {i}")
        (tmp_path / f"._{i}.png").write_bytes(APPLE)
    for name in (".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(picture(7))
    assert captions(open_source(tmp_path)) == {"0": ["bird 0"], "1": ["bird 1"]}


def test_words_before_the_endings_do_not_part_a_sample(tmp_path: Path) -> None:
    """mlfoundations/open_clip#480; numbers do (huggingface/datasets#7144)."""
    members = {"a.input.png": picture(1), "a.output.txt": b"a bird"}
    tar = write_tar(tmp_path / "a.tar", members)
    assert captions(open_source(tar)) == {"a.input": ["a bird"]}
    members = {f"v1.2/22.0{i}.png": picture(i) for i in (5, 6)}
    tar = write_tar(tmp_path / "b.tar", {**members, "v1.2/22.05.txt": b"five"})
    assert captions(open_source(tar)) == {"v1.2/22.05": ["five"], "v1.2/22.06": []}
    tar = write_tar(tmp_path / "c.tar", {"22.05.png": picture(5), "22.06.txt": b"six"})
    with pytest.raises(ValueError, match="no captions"):
        open_source(tar)


def test_members_that_are_not_side_by_side_belong_together(tmp_path: Path) -> None:
    """webdataset/webdataset#407, Stability-AI/StableCascade#25."""
    members = {f"{i}.txt": f"bird {i}".encode() for i in (2, 0, 1)}
    members |= {f"{i}.png": picture(i) for i in range(3)}
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert captions(source) == {str(i): [f"bird {i}"] for i in range(3)}


def test_one_name_in_two_tars_is_two_samples(tmp_path: Path) -> None:
    """webdataset/webdataset#157."""
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {"x.png": picture(1), "x.txt": name.encode()})
    assert [example.captions[0][0] for example in open_source(tmp_path)] == ["a", "b"]


def test_answers_of_a_conversation_are_captions(tmp_path: Path) -> None:
    """huggingface/datasets#7337: a zip beside its table, and LLaVA's conversations."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("GCC_1.png", picture(1))
    asked = {"from": "human", "value": "<image>\nDescribe it."}
    row = {"file_name": "GCC_1.png", "conversations": [asked, {"from": "gpt", "value": "a city"}]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert list(captions(open_source(tmp_path)).values()) == [["a city"]]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a town"}]}
    row = {"file_name": "GCC_1.png", "messages": [{"role": "user", "content": "What?"}, answer]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert list(captions(open_source(tmp_path)).values()) == [["a town"]]


def test_a_quote_that_nothing_closes_swallows_no_rows(tmp_path: Path) -> None:
    """iejMac/video2dataset#117, rewicks/ersatz#1; line ends in quotes: rom1504/img2dataset#283."""
    write_pictures(tmp_path, 6)
    texts = ['"Quoted start', "plain", 'say "hi", you', 'six" wide', '"two\nlines, one"', '"both"']
    rows = "".join(f"{i}.png,{text}\n" for i, text in enumerate(texts))
    (tmp_path / "list.csv").write_text(f"image,caption\n{rows}")
    assert captions(open_source(tmp_path)) == {
        "0": ['"Quoted start'],
        "1": ["plain"],
        "2": ['say "hi", you'],
        "3": ['six" wide'],
        "4": ["two lines, one"],
        "5": ["both"],
    }


def test_words_for_nothing_are_no_captions(tmp_path: Path) -> None:
    """modelscope/ms-swift#306."""
    write_pictures(tmp_path, 4)
    rows = "".join(f"{i}.png,{text}\n" for i, text in enumerate(["nan", "None", "", "a nan bread"]))
    (tmp_path / "list.csv").write_text(f"image,caption\n{rows}")
    source = open_source(tmp_path)
    assert list(captions(source).values()) == [[], [], [], ["a nan bread"]]
    assert source[0].notes == ("captions such as nan, None or null are taken for missing ones",)


def test_a_gap_in_a_range_of_shards_is_named_with_what_to_do(tmp_path: Path) -> None:
    """rom1504/img2dataset#174."""
    for i in (0, 1, 3):
        write_tar(tmp_path / f"{i}.tar", {"x.png": picture(i), "x.txt": b"a bird"})
    with pytest.raises(
        ValueError, match=r"4 files, of which 1 are not .*2\.tar; '.*/\*\.tar' names"
    ):
        open_source(str(tmp_path / "{0..3}.tar"))
    assert len(open_source(str(tmp_path / "*.tar"))) == 3


def test_a_list_of_pictures_is_told_from_a_table(tmp_path: Path) -> None:
    """CompVis/taming-transformers#80."""
    write_pictures(tmp_path / "pictures", 2)
    (tmp_path / "train.txt").write_text(f"{tmp_path}/pictures/0.png\n{tmp_path}/pictures/1.png\n")
    with pytest.raises(ValueError, match="train.txt is a list of pictures without captions: name"):
        open_source(tmp_path / "train.txt")


@pytest.mark.parametrize("place", ["before", "inside"])
def test_a_tar_of_a_killed_download_keeps_what_is_whole(place: str, tmp_path: Path) -> None:
    """rom1504/img2dataset#289."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(3):
            for name, data in ((f"{i}.png", picture(i)), (f"{i}.txt", f"bird {i}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    end = {"before": 2 * 2048, "inside": 2 * 2048 + 700}[place]
    (tmp_path / "0.tar").write_bytes(file.getvalue()[:end])
    source = open_source(tmp_path)
    assert captions(source) == {"0": ["bird 0"], "1": ["bird 1"]}
    why = {"before": "truncated at its end", "inside": "truncated inside 2.png"}[place]
    assert source.warnings() == [f"0.tar is damaged: {why}"]


def test_paths_may_begin_in_the_folder_above(tmp_path: Path) -> None:
    """huggingface/diffusers#3674."""
    write_pictures(tmp_path / "train", 2)
    rows = "".join(
        json.dumps({"file_name": f"train/{i}.png", "text": f"bird {i}"}) + "\n" for i in range(2)
    )
    (tmp_path / "train" / "metadata.jsonl").write_text(rows)
    for source in (open_source(tmp_path), open_source(tmp_path / "train", config=ReadingConfig())):
        assert list(captions(source).values()) == [["bird 0"], ["bird 1"]]


def test_rows_without_a_picture_and_pickled_types_harm_nobody(tmp_path: Path) -> None:
    """huggingface/datasets#3856, #4840."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, ran = "arrow.py_extension_type", tmp_path / "ran"
    pickled = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    about = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickled}
    picture_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": picture(0), "path": None}, None, {"bytes": None, "path": None}]
    fields = [pa.field("image", picture_type), pa.field("text", pa.string())]
    fields.append(pa.field("more", pa.list_(pa.int64()), metadata=about))
    columns = [pa.array(images, picture_type), pa.array(["a", "b", "c"]), pa.array([[1]] * 3)]
    table = pa.table(columns, schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "x.parquet")
    readings = list(read_pictures(open_source(tmp_path), 8, need_captions=True))
    assert [reading.pixels is not None for reading in readings] == [True, False, False]
    assert all("no picture" in reading.problem for reading in readings[1:]), readings[1].problem
    assert not ran.exists()

"""Names in the encodings of other countries, and links in tars."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.sources import ReadingConfig, Source, open_source
from tests.data.samples import picture, write_tar

WORDS = {
    "gb18030": ("红色的鸟", "黑猫", "一只狗", "树上的猫"),
    "cp932": ("赤い鳥", "黒猫", "木の上の猫", "青い空"),
    "cp1252": ("größe", "übung", "käse"),
    "cp437": ("größe", "übung", "käse"),
    "cp866": ("красная птица", "чёрный кот", "собака"),
}
BY_NAMES = ReadingConfig(captions="names")


def captions(source: Source) -> dict[str, list[str]]:
    return {example.file: [text for text, _ in example.captions] for example in source}


def unpacked(folder: Path, encoding: str) -> list[str]:
    """Write pictures whose names are bytes of an encoding, as an unpacked zip leaves them."""
    names = [os.fsdecode(f"{word}.png".encode(encoding)) for word in WORDS[encoding]]
    for i, name in enumerate(names):
        (folder / name).write_bytes(picture(i))
    return names


@pytest.mark.parametrize("encoding", ["gb18030", "cp932", "cp1252"])
def test_names_that_are_not_utf_8_are_read_in_their_encoding(encoding: str, tmp_path: Path) -> None:
    names = unpacked(tmp_path, encoding)
    source = open_source(tmp_path, config=BY_NAMES)
    assert captions(source) == dict(zip(names, [[word] for word in WORDS[encoding]], strict=True))
    assert source[0].notes == (f"names were read as {encoding}",)


def test_names_in_a_tar_and_of_classes_too(tmp_path: Path) -> None:
    names = [os.fsdecode(word.encode("gb18030")) for word in WORDS["gb18030"]]
    tar = write_tar(tmp_path / "a.tar", {f"{name}.png": picture(0) for name in names})
    found = [example.captions[0][0] for example in open_source(tar, config=BY_NAMES)]
    assert found == list(WORDS["gb18030"])
    for name in names:
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.png").write_bytes(picture(1))
    source = open_source(tmp_path / "classes")
    assert sorted(c for texts in captions(source).values() for c in texts) == sorted(
        f"a photo of a {word}" for word in WORDS["gb18030"]
    )
    assert "names read as gb18030" in source.describe()


def test_a_table_in_utf_8_finds_pictures_with_names_in_another_encoding(tmp_path: Path) -> None:
    names = unpacked(tmp_path, "cp932")
    rows = "".join(f"{word}.png,picture {i}\n" for i, word in enumerate(WORDS["cp932"]))
    (tmp_path / "list.csv").write_text("file,caption\n" + rows)
    assert captions(open_source(tmp_path)) == {
        name: [f"picture {i}"] for i, name in enumerate(names)
    }


@pytest.mark.parametrize("encoding", sorted(WORDS))
def test_names_in_a_zip_are_guessed_from_all_of_them(encoding: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for i, word in enumerate(WORDS[encoding]):
            archive.writestr("A" * len(word.encode(encoding)) + f"{i}.png", picture(i))
    data = packed.getvalue()
    for i, word in enumerate(WORDS[encoding]):
        name = word.encode(encoding)
        data = data.replace(b"A" * len(name) + b"%d.png" % i, name + b"%d.png" % i)
    (tmp_path / "a.zip").write_bytes(data)
    source = open_source(tmp_path / "a.zip", need_captions=False)
    assert {example.file for example in source} == {
        f"{word}{i}.png" for i, word in enumerate(WORDS[encoding])
    }
    assert f"names read as {encoding}" in source.describe()


def tar_of(path: Path, entries: list[tuple[str, bytes | str, bytes]]) -> Path:
    """Write a tar of (name, content or target, type)."""
    with tarfile.open(path, "w") as tar:
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


FILE, HARD, SOFT = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
LONG = "d" * 120


def test_links_in_a_tar_are_the_members_that_they_name(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes | str, bytes]] = [
        ("0.png", "a/1.png", SOFT),
        ("0.txt", b"before it", FILE),
        ("a/1.png", picture(1), FILE),
        ("a/1.txt", b"a bird", FILE),
        ("a/2.png", "a/1.png", HARD),
        ("a/2.txt", "a/1.txt", HARD),
        ("a/3.png", "2.png", SOFT),
        ("a/3.txt", b"a chain", FILE),
        (f"{LONG}/4.png", f"{LONG}/5.png", HARD),
        (f"{LONG}/5.png", picture(5), FILE),
        (f"{LONG}/4.txt", b"a long name", FILE),
    ]
    source = open_source(tar_of(tmp_path / "a.tar", entries))
    found = {
        example.key: (example.data, example.captions[0][0])
        for example in source
        if example.captions
    }
    assert found == {
        "0": (picture(1), "before it"),
        "a/1": (picture(1), "a bird"),
        "a/2": (picture(1), "a bird"),
        "a/3": (picture(1), "a chain"),
        f"{LONG}/4": (picture(5), "a long name"),
    }
    assert source.warnings() == []


def test_links_out_of_a_tar_and_round_in_it_are_counted(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes | str, bytes]] = [
        ("1.png", picture(1), FILE),
        ("1.txt", b"a bird", FILE),
        ("2.png", "../../etc/passwd", SOFT),
        ("3.png", "/etc/passwd", SOFT),
        ("4.png", "5.png", SOFT),
        ("5.png", "4.png", SOFT),
        ("6.png", "", HARD),
    ]
    source = open_source(tar_of(tmp_path / "a.tar", entries))
    assert len(source) == 1
    assert source.warnings() == [
        "skipped 5 links to files that are not in the tar: a.tar/2.png, a.tar/3.png, a.tar/4.png …"
    ]


def test_links_in_joined_tars_lead_to_members_of_their_own(tmp_path: Path) -> None:
    parts = []
    for i in range(2):
        entries: list[tuple[str, bytes | str, bytes]] = [
            ("1.png", picture(i), FILE),
            ("1.txt", f"picture {i}".encode(), FILE),
            ("2.png", "1.png", HARD),
            ("2.txt", "1.txt", HARD),
        ]
        parts.append(tar_of(tmp_path / "part", entries).read_bytes())
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    source = open_source(tmp_path / "a.tar")
    assert [(e.key, e.data, e.captions[0][0]) for e in source] == [
        *(("1", picture(0), "picture 0"), ("2", picture(0), "picture 0")),
        *(("1", picture(1), "picture 1"), ("2", picture(1), "picture 1")),
    ]


def test_members_with_holes_are_counted(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("2.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("1.png", picture(1)), ("1.txt", b"a bird")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(sparse)
    (warning,) = open_source(tmp_path / "a.tar").warnings()
    assert warning == "skipped 1 members with holes (tar --sparse): a.tar/2.png"

"""Hostile sources: no code of theirs runs, no file outside them is opened, and reading ends."""

import io
import json
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.pictures.reading import read_pictures
from data.sources import ReadingConfig, open_source
from data.sources.files.tar_format import list_members
from tests.data.samples import picture, write_tar

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def saved_table(folder: Path, columns: dict[str, list[Any]], **state: Any) -> Path:
    """Write a folder like datasets.save_to_disk."""
    import pyarrow as pa

    folder.mkdir()
    table = pa.table(columns)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files} | state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def rows(count: int = 4) -> list[dict[str, Any]]:
    return [{"bytes": picture(i), "path": None} for i in range(count)]


@pytest.mark.parametrize("kind", ["eps", "path", "address", "pipe"])
def test_a_second_column_of_pictures_is_never_touched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    os.mkfifo(tmp_path / "pipe")
    paths = {"path": "/etc/passwd", "address": "http://127.0.0.1:9/x", "pipe": f"{tmp_path}/pipe"}
    other = {"bytes": EPS if kind == "eps" else None, "path": paths.get(kind)}
    columns: dict[str, list[Any]] = {"image": rows(), "caption": ["a"] * 4, "thumb": [other] * 4}
    folder = saved_table(tmp_path / "t", columns, _format_type="torch", _format_columns=["thumb"])
    readings = list(read_pictures(open_source(folder), 8))
    assert [r.problem for r in readings] == [""] * 4
    assert not (tmp_path / "pwned").exists()


def test_a_path_in_a_table_leads_nowhere_but_to_files_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    os.mkfifo(tmp_path / "pipe.png")
    paths = [f"{tmp_path}/secret.png", "../secret.png", "../pipe.png", "in.png"]
    images = [{"bytes": None, "path": path} for path in paths]
    folder = saved_table(tmp_path / "t", {"image": images, "caption": ["a"] * 4})
    (folder / "in.png").write_bytes(picture(2))
    readings = list(read_pictures(open_source(folder), 8))
    assert [r.pixels is not None for r in readings] == [False, False, False, True]
    assert "secret.png is not in the source's folder" in readings[0].problem
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "1.png").write_bytes(picture(1))
    table = "file_name,text\n1.png,a\n../secret.png,b\n/etc/passwd,c\n"
    (tmp_path / "csv" / "metadata.csv").write_text(table)
    source = open_source(tmp_path / "csv")
    assert [e.file for e in source] == ["1.png"]
    assert source.unused.counts == {"rows whose picture is not there": 2}


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "pipe", "", 3, None])
def test_a_saved_data_set_names_only_files_of_its_own(name: Any, tmp_path: Path) -> None:
    folder = saved_table(tmp_path / "t", {"image": rows(), "caption": ["a"] * 4})
    os.mkfifo(folder / "pipe")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(ValueError, match=r"state\.json lists files that are not in"):
        open_source(folder)


def test_an_arrow_file_whose_offsets_lie_is_reported(tmp_path: Path) -> None:
    folder = saved_table(tmp_path / "t", {"image": rows(), "caption": ["abcd"] * 4})
    path = folder / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    offsets = struct.pack("<5i", 0, 4, 8, 12, 16)
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<5i", 0, 4, 8, 12, 1 << 30)))
    readings = list(read_pictures(open_source(folder), 8))
    assert all("is damaged" in r.problem for r in readings)
    for cut in (0, 10, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"not a readable Arrow file|no pictures"):
            open_source(folder)


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136], block[156:157], block[148:156] = size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative(size: int) -> bytes:
    return b"\xff" * 4 + struct.pack(">q", size)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (header("1.png", negative(-512)), r"1\.png has the size -512, after 0\.txt"),
        (header("1.png", negative(-1024)), r"1\.png has the size -1,024, after 0\.txt"),
        (header("1.png", b"\x80" + b"\xff" * 11), r"truncated inside 1\.png"),
        (header("1.png", b"-0000001000\0"), r"1\.png has the size '-0000001000'"),
        (header("1.png", b"99999999999\0"), r"1\.png has the size '99999999999'"),
        (header("x", b"77777777777\0", b"x"), r"an extended header of 8,589,934,591 bytes"),
        (header("x", b"00000000000\0", b"L") * 3, r"truncated inside a header|no tar header"),
        (b"junk" * 128, r"no tar header .its checksum is wrong., after 0\.txt"),
    ],
)
def test_a_tar_with_an_impossible_member_ends_there_and_names_it(
    block: bytes, why: str, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "0.tar", {"0.png": picture(0), "0.txt": b"black"})
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512) + block + bytes(1024))
    start = time.perf_counter()
    source = open_source(path)
    assert time.perf_counter() - start < 2
    assert [e.key for e in source] == ["0"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(source.damage["0.tar"])
    assert source.warnings()[0].startswith("0.tar is damaged: ")


def test_long_names_and_pax_headers_read_as_tarfile_reads_them(tmp_path: Path) -> None:
    names = ["a" * 180 + "/" + "b" * 120 + ".png", "ü/日本.png", "c" * 90 + "/" + "d" * 90 + ".png"]
    for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "0.tar", "w", format=tar_format) as tar:
            for i, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = i + 1
                tar.addfile(info, io.BytesIO(b"x" * (i + 1)))
        found = list_members(tmp_path / "0.tar")
        with tarfile.open(tmp_path / "0.tar") as tar:
            expected = [(m.name, m.offset_data, m.size) for m in tar]
        assert list(zip(found.names, found.offsets, found.sizes, strict=True)) == expected
        assert not found.damage


def test_a_pax_header_of_many_records_takes_no_time(tmp_path: Path) -> None:
    records = b"6 a=b\n" * 170_000
    block = header("x", b"%011o\0" % len(records), b"x") + records + bytes(-len(records) % 512)
    (tmp_path / "0.tar").write_bytes(block + header("1.png", b"00000000000\0") + bytes(1024))
    start = time.process_time()
    assert list_members(tmp_path / "0.tar").names == ["1.png"]
    assert time.process_time() - start < 3


def test_empty_members_are_counted_and_cost_little(tmp_path: Path) -> None:
    count = 8_000
    with (tmp_path / "0.tar").open("wb") as file:
        for i in range(count):
            file.write(header(f"{i:07d}.png", b"00000000000\0"))
        file.write(header("1.png", b"00000000001\0") + b"x".ljust(512, b"\0") + bytes(1024))
    tracemalloc.start()
    source = open_source(tmp_path, need_captions=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 1
    assert source.unused.counts == {"members without a byte": count}
    assert peak < count * 400


def test_joined_and_repeated_tars_keep_every_sample(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "a", {"0.png": picture(0), "0.txt": b"first"}).read_bytes()
    two = write_tar(tmp_path / "b", {"0.png": picture(1), "0.txt": b"second"}).read_bytes()
    (tmp_path / "0.tar").write_bytes(one + two)
    (tmp_path / "1.tar").write_bytes(one.rstrip(b"\0") + bytes(-len(one.rstrip(b"\0")) % 512) + two)
    for name in ("0.tar", "1.tar"):
        source = open_source(tmp_path / name)
        assert [e.captions[0][0] for e in source] == ["first", "second"]
        assert not source.damage


def test_a_mask_beside_a_picture_is_no_picture_of_its_own(tmp_path: Path) -> None:
    members = {"1.png": picture(0), "1.seg.png": picture(1), "1.txt": b"a", "2.5.png": picture(2)}
    source = open_source(write_tar(tmp_path / "0.tar", {**members, "2.5.txt": b"b"}))
    assert [(e.member, e.captions[0][0]) for e in source] == [("1.png", "a"), ("2.5.png", "b")]
    assert source.unused.counts == {"further pictures of a sample": 1}


def test_a_zip_is_not_unpacked_and_its_bombs_are_not_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../out.png", picture(0))
        file.writestr("../../out.txt", "a")
        file.writestr("bomb.png", bytes(100 << 20))
        file.writestr("bomb.txt", "b")
        file.writestr("__MACOSX/._out.png", b"x")
    before = sorted(tmp_path.parent.rglob("*"))
    tracemalloc.start()
    readings = list(read_pictures(open_source(tmp_path), 8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [r.pixels is not None for r in readings] == [False, True]
    assert "bytes are more than" in readings[0].problem
    assert peak < 150 << 20
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_names_reach_the_terminal_as_text(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1\x1b[2J.png": picture(0), "2.png": picture(1), "2.txt": b"a"})
    source = open_source(tmp_path)
    (reading, _) = read_pictures(source, 8, need_captions=True)
    assert reading.pixels is None
    from data.pictures.reading import describe_skipped

    message = describe_skipped([(reading.name, reading.problem)], 2) + "".join(source.warnings())
    assert "\x1b" not in message
    assert "1\\x1b[2J.png" in message


def _link_circle(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to("..", target_is_directory=True)
    (folder / "sub" / "again").symlink_to("../sub", target_is_directory=True)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "disk").mkdir()
    for folder, name in (("mine", "a"), ("disk", "b")):
        (tmp_path / folder / f"{name}.png").write_bytes(picture(1))
        (tmp_path / folder / f"{name}.txt").write_text(name)
    _link_circle(tmp_path / "mine")
    for name in ("one", "two"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "disk", target_is_directory=True)
    source = open_source(tmp_path / "mine")
    assert [e.key for e in source] == ["a", "one/b"]
    assert source.unused.counts["linked folders that were read already"] == 3


@pytest.mark.parametrize("most", [0.5, 1.0])
def test_a_source_of_bad_pictures_stops_early(most: float, make_folder: Callable) -> None:
    folder = make_folder(300)
    for i in range(0, 300, 2):
        (folder / f"{i:03d}.png").write_bytes(b"broken")
    (folder / "001.png").write_bytes(b"broken")
    config = ReadingConfig(max_bad_fraction=most)
    readings = read_pictures(open_source(folder), 8, config=config)
    if most == 1:
        assert sum(r.pixels is None for r in readings) == 151
        return
    with pytest.raises(
        ValueError, match=r"of the first 2\d\d of 300 pictures cannot be used .1\d\d × not a JPEG"
    ):
        list(readings)

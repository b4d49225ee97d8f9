"""Sources at addresses give the same examples as the same files in a folder, or fail in one
line."""

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from command_line.parser import parse_config
from data.encode import reading_of
from data.encoding.config import EncodeConfig, fingerprint
from data.pictures.reading import read_pictures
from data.sources import Source, open_source
from data.sources.files import addresses, remote
from data.sources.files.addresses import PACKAGES, RemoteError
from tests.data.layouts import LAYOUTS, N, put, webdataset
from tests.data.samples import picture, write_tar


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0,))


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder like `python -m http.server`, but files under fails/ break off half way."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "/secret/" in self.path and "key=1" not in self.path:
            self.send_error(403)
        elif "/fails/" in self.path and self.path.endswith(".tar"):
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        elif "/endless/" in self.path and self.path.endswith(".png"):
            self.send_response(200)  # without a length
            self.end_headers()
            with contextlib.suppress(OSError):  # the reader has gone
                while True:
                    self.wfile.write(bytes(1 << 16))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if "/endless/" in self.path and self.path.endswith(".png"):
            self.send_response(200)
            self.end_headers()
        else:
            super().do_HEAD()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    _Server.asked = []
    handler = functools.partial(_Server, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def seen(source: Source, *flags: str) -> list[tuple[Any, ...]]:
    """Everything that encoding reads from a source."""
    config = reading_of(parse_config(EncodeConfig, list(flags)))
    return [
        (r.problem, r.example.key, r.example.captions, r.example.split, r.pixels.tobytes())
        for r in read_pictures(source, 8, config=config)
        if r.example is not None and r.pixels is not None
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_at_an_address(name: str, tmp_path: Path, memory: Any) -> None:
    _, make, flags, _ = LAYOUTS[name]
    (tmp_path / "local").mkdir()
    make(tmp_path / "local")
    memory.put(str(tmp_path / "local"), "/there", recursive=True)
    config = reading_of(parse_config(EncodeConfig, list(flags)))
    here = open_source(tmp_path / "local", config=config)
    there = open_source("memory://there", config=config)
    assert len(there) == N
    assert seen(there, *flags) == seen(here, *flags)
    assert (there.kind, there.about, there.damage) == (here.kind, here.about, here.damage)
    assert there.describe().startswith("memory://there")


@pytest.mark.parametrize("name", ["i2d_webdataset", "hf_parquet", "hf_csv", "zip"])
def test_a_web_server_s_folder_and_files_are_read(name: str, tmp_path: Path, served: str) -> None:
    folder = tmp_path / "a folder, ü"
    folder.mkdir()
    LAYOUTS[name][1](folder)
    address = f"{served}/a%20folder%2C%20%C3%BC"
    assert seen(open_source(address)) == seen(open_source(folder))
    if name == "i2d_webdataset":
        write_tar(folder / "00001.tar", {"a b.png": picture(0), "a b.txt": b"a"})
        some = open_source(address + "/{00000..00001}.tar")
        assert seen(some) == seen(open_source(folder))
        with pytest.raises(ValueError, match=r"00002\.tar cannot be read: 404 File not found"):
            open_source(address + "/{00000..00002}.tar")
        assert seen(open_source(address + "/00000.tar?download=true")) == seen(
            open_source(folder / "00000.tar")
        )


def test_globs_and_several_addresses_are_one_source(memory: Any, tmp_path: Path) -> None:
    for i in range(3):
        tar = write_tar(tmp_path / f"{i}.tar", {f"{i}.png": picture(i), f"{i}.txt": b"a"})
        memory.put(str(tar), f"/many/{i}.tar")
    assert [e.key for e in open_source("memory://many/*.tar")] == ["0", "1", "2"]
    assert len(open_source("memory://many/{0..1}.tar")) == 2
    both = open_source(["memory://many/0.tar", str(tmp_path / "2.tar")])
    assert [e.key for e in both] == ["many/0", f"{tmp_path.name}/2"]


def test_copies_take_a_bounded_space(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        tar = write_tar(tmp_path / f"{i}.tar", {f"{i}.png": picture(i), f"{i}.txt": b"a"})
        memory.put(str(tar), f"/many/{i}.tar")
    monkeypatch.setattr(remote, "MOST_KEPT", 2 * (tmp_path / "0.tar").stat().st_size)
    source = open_source("memory://many")
    assert [e.key for e in source] == list("012345")
    copies = Path(os.fspath(source.path))
    assert len(list(copies.rglob("*.tar"))) == 2


def test_the_fingerprint_is_of_the_version_that_the_address_has(
    memory: Any, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        webdataset(tmp_path)
        memory.put(str(tmp_path / "00000.tar"), f"/{folder}/00000.tar")
    first = fingerprint(open_source("memory://a"))
    assert fingerprint(open_source("memory://a")) == first
    memory.put(str(tmp_path / "00000.tar"), "/a/00000.tar")
    assert fingerprint(open_source("memory://a")) != first


def test_a_failing_network_ends_the_reading_and_is_no_bad_picture(
    memory: Any, tmp_path: Path
) -> None:
    for i in range(2):
        memory.pipe(f"/pics/{i}.png", picture(i))
        memory.pipe(f"/pics/{i}.txt", b"a")
    source = open_source("memory://pics")
    memory.rm("/pics/1.png")
    with pytest.raises(OSError, match=r"memory://pics/1\.png cannot be read.*same command resumes"):
        list(read_pictures(source, 8))


def test_a_transfer_that_breaks_off_is_tried_again_and_refused(tmp_path: Path, served: str) -> None:
    (tmp_path / "fails").mkdir()
    write_tar(tmp_path / "fails" / "0.tar", {"0.png": picture(0), "0.txt": b"a"})
    with pytest.raises(ValueError, match=r"/fails/0\.tar cannot be read: "):
        open_source(f"{served}/fails/0.tar")
    with pytest.raises(ValueError, match=r"/nothing cannot be read: it is not there"):
        open_source(f"{served}/nothing")
    with pytest.raises(ValueError, match=r"127.0.0.1:9/x cannot be read: .*[Cc]onnect"):
        open_source("http://127.0.0.1:9/x")
    assert len([one for one in _Server.asked if one.endswith("0.tar")]) >= 2


def test_a_picture_without_end_is_one_unreadable_picture(
    tmp_path: Path, served: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1 << 20)
    put(tmp_path / "endless" / "0.png", b"listed")
    put(tmp_path / "endless" / "0.txt", b"a")
    put(tmp_path / "endless" / "1.txt", b"b")
    put(tmp_path / "endless" / "1.jpg", picture(1, kind="JPEG"))
    found = [r.problem for r in read_pictures(open_source(f"{served}/endless"), 8)]
    assert len(found) == 2
    assert "endless/0.png has more than 1,048,576 bytes, or no end" in found[0]
    assert not found[1]
    memory.pipe("/large/0.png", bytes((1 << 20) + 1))
    memory.pipe("/large/0.txt", b"a")
    [one] = read_pictures(open_source("memory://large"), 8)
    assert "memory://large/0.png has more than 1,048,576 bytes" in one.problem


def test_keys_in_an_address_are_used_and_never_shown(tmp_path: Path, served: str) -> None:
    (tmp_path / "secret").mkdir()
    write_tar(tmp_path / "secret" / "0.tar", {"0.png": picture(0), "0.txt": b"a"})
    source = open_source(f"{served}/secret/0.tar?key=1")
    assert len(source) == 1
    assert "key" not in source.describe()
    with pytest.raises(ValueError, match="secret/0.tar cannot be read") as refused:
        open_source(f"{served}/secret/0.tar?key=2")
    assert "key" not in str(refused.value)
    shown = addresses.without_secrets("https://me:word@x.org/a.tar?sig=1#2")
    assert shown == "https://x.org/a.tar"


@pytest.mark.parametrize("name", ["../up.png", ".hidden.png", "a/../../b.png"])
def test_names_of_a_server_lead_nowhere_else(name: str, memory: Any) -> None:
    memory.pipe("/pics/1.png", picture(0))
    memory.pipe("/pics/1.txt", b"a")
    memory.store[f"/pics/{name}"] = memory.store["/pics/1.png"]
    assert [e.key for e in open_source("memory://pics")] == ["1"]


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_missing_package_is_named(scheme: str) -> None:
    package = PACKAGES[scheme]
    with pytest.raises(ValueError, match=rf"{scheme}://.*pip install '{package}'"):
        open_source(f"{scheme}://bucket/{{0..3}}.tar")


@pytest.mark.parametrize(
    "address", ["ssh://h/a.tar", "github://a:b@/x", "simplecache::s3://b/a.tar", "local:///etc"]
)
def test_other_schemes_are_refused_by_name(address: str) -> None:
    scheme = address.partition(":")[0]
    with pytest.raises(ValueError, match=rf"is an address \({scheme}\) that is not read"):
        open_source(address)


def test_a_pipe_never_runs_a_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would run a command, which is never done"):
        open_source(f"pipe:touch {tmp_path}/ran")
    put(tmp_path / "src" / "list.csv", f"file_name,text\npipe:touch {tmp_path}/ran,a\n")
    put(tmp_path / "src" / "1.png", picture(0))
    with pytest.raises(ValueError, match="no captions"):
        open_source(tmp_path / "src")
    assert not (tmp_path / "ran").exists()


def test_a_name_of_the_hub_is_sought_there(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    def unreachable(address: str) -> Any:
        raise RemoteError(f"{address} cannot be read: no network")

    monkeypatch.setattr(remote, "open_folder", unreachable)
    message = (
        r"no nlphuji/flickr30k on this machine.*hf://datasets/nlphuji/flickr30k cannot be read"
    )
    with pytest.raises(ValueError, match=message):
        open_source("nlphuji/flickr30k")
    with pytest.raises(ValueError, match="try hf://datasets/a/b"):
        open_source("hf://a/b")

"""Copies of other people's folders: links that lead out of them are refused."""

import os
from pathlib import Path

import pytest

from common.copying import copy_file, copy_folder
from model.pretrained import convert


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    return tmp_path / "home" / "id_rsa"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "release" / "vqgan" / "deep").mkdir(parents=True)
    (tmp_path / "release" / "vqgan" / "config.json").write_text("{}")
    (tmp_path / "release" / "vqgan" / "deep" / "x").write_text("x")
    return tmp_path / "release"


def test_files_and_links_inside_are_copied_as_files(release: Path, tmp_path: Path) -> None:
    (release / "vqgan" / "again").symlink_to("config.json")
    (release / "vqgan" / "above").symlink_to(release / "vqgan" / "deep" / "x")
    copy_folder(release / "vqgan", tmp_path / "out", release)
    assert (tmp_path / "out" / "deep" / "x").read_text() == "x"
    assert not (tmp_path / "out" / "again").is_symlink()
    assert (tmp_path / "out" / "again").read_text() == "{}"


@pytest.mark.parametrize("where", ["vqgan/notes.txt", "vqgan/deep/notes", "vqgan/folder"])
def test_a_link_that_leads_out_is_refused_by_name(
    release: Path, secret: Path, tmp_path: Path, where: str
) -> None:
    target = secret.parent if where.endswith("folder") else secret
    (release / where).symlink_to(os.path.relpath(target, (release / where).parent))
    with pytest.raises(ValueError, match=f"{where} is a link that leads out of .*release"):
        copy_folder(release / "vqgan", tmp_path / "out", release)
    assert "secret" not in [p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_folder_that_is_a_link_itself_is_refused(
    release: Path, secret: Path, tmp_path: Path
) -> None:
    (release / "tokenizer").symlink_to(secret.parent)
    with pytest.raises(ValueError, match="tokenizer is a link that leads out"):
        copy_folder(release / "tokenizer", tmp_path / "out", release)
    with pytest.raises(ValueError, match="tokenizer/id_rsa is a link that leads out"):
        copy_file(release / "tokenizer" / "id_rsa", tmp_path / "id_rsa", release)


def test_pipes_are_refused_and_not_waited_for(release: Path, tmp_path: Path) -> None:
    os.mkfifo(release / "vqgan" / "pipe")
    with pytest.raises(ValueError, match="pipe is not a file"):
        copy_folder(release / "vqgan", tmp_path / "out")


def test_the_hub_s_cache_is_read_through_its_links_and_no_further(
    secret: Path, tmp_path: Path
) -> None:
    snapshot, blobs = tmp_path / "models--a" / "snapshots" / "1", tmp_path / "models--a" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/abc")
    copy_folder(snapshot, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    (snapshot / "vocab.json").symlink_to(secret)
    with pytest.raises(ValueError, match=r"vocab.json is a link that leads out"):
        copy_folder(snapshot, tmp_path / "more")
    (snapshot / "vocab.json").unlink()
    (blobs / "abc").unlink()
    blobs.rmdir()
    blobs.symlink_to(secret.parent)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to("../../blobs/id_rsa")
    with pytest.raises(ValueError, match=r"tokenizer.json is a link that leads out"):
        copy_folder(snapshot, tmp_path / "more")


def test_a_conversion_carries_no_file_from_elsewhere(secret: Path, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "reference" / "dalle_mini"
    foreign = tmp_path / "foreign"
    found = next(p.parent for p in sorted(source.rglob("config.json")))
    copy_folder(found, foreign)
    (foreign / "merges.txt").symlink_to(secret)
    with pytest.raises(ValueError, match=r"merges.txt is a link that leads out"):
        convert(foreign, tmp_path / "out")

"""Where compiled programs are kept."""

import os
from pathlib import Path

import pytest

import runtime


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone, beside a home folder."""
    for name in ("clone", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(runtime, "CACHE_FOLDER", tmp_path / "clone" / ".cache" / "jax")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "clone"


def read_only(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system, which root cannot write to, either."""
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) not in folders)


def test_programs_are_kept_in_the_clone(clone: Path) -> None:
    assert runtime._cache_folder() == clone / ".cache" / "jax"


def test_a_read_only_clone_keeps_them_in_the_home_folder(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only([clone], monkeypatch)
    assert runtime._cache_folder() == clone.parent / "home" / ".cache" / "pastel"


def test_without_a_place_nothing_is_kept(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only([clone, clone.parent / "home"], monkeypatch)
    assert runtime._cache_folder() is None
    monkeypatch.setenv("HOME", str(clone / "gone"))
    assert runtime._cache_folder() is None

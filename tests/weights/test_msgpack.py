"""Flax's msgpack files: the same bytes are read and written, and damage is named by its key."""

import copy
from pathlib import Path
from typing import Any

import flax.serialization
import jax.numpy as jnp
import msgpack as vendor
import numpy as np
import pytest

from weights import msgpack
from weights.msgpack import read_msgpack, write_msgpack

REFERENCE = Path(__file__).parents[1] / "reference"
NUMBERS = np.random.default_rng(0)


@pytest.fixture
def tree() -> dict[str, Any]:
    return {
        "b": {"kernel": NUMBERS.normal(size=(5, 6)).astype(np.float32), "nothing": {}},
        "a": NUMBERS.normal(size=4).astype(np.float16),
        "brain": np.asarray(jnp.ones((2, 3), jnp.bfloat16)),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.asarray(1.5),
    }


@pytest.fixture
def path(tmp_path: Path, tree: dict[str, Any]) -> Path:
    write_msgpack(tmp_path / "x.msgpack", tree)
    return tmp_path / "x.msgpack"


def test_a_file_that_flax_wrote_comes_back_to_the_byte(tmp_path: Path) -> None:
    source = REFERENCE / "vqgan_flax" / "vqgan_flax" / "flax_model.msgpack"
    found = read_msgpack(source)
    assert found["quantize"]["embedding"]["embedding"].shape == (64, 32)
    write_msgpack(tmp_path / "again", found)
    assert (tmp_path / "again").read_bytes() == source.read_bytes()


def test_the_bytes_are_those_of_flax(path: Path, tree: dict[str, Any]) -> None:
    expected = flax.serialization.msgpack_serialize(copy.deepcopy(tree), in_place=True)
    assert path.read_bytes() == expected


def test_a_written_tree_is_read_in_its_order(path: Path, tree: dict[str, Any]) -> None:
    found = read_msgpack(path)
    assert list(found) == list(tree)
    assert found["b"]["nothing"] == {}
    for one, other in (
        (found["b"]["kernel"], tree["b"]["kernel"]),
        (found["brain"], tree["brain"]),
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_large_arrays_go_in_pieces_as_flax_cuts_them(
    tmp_path: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flax splits arrays over 2^30 bytes. Here the limit is 16, so that the test needs little
    memory."""
    monkeypatch.setattr(msgpack, "PIECE_BYTES", 16)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    path = tmp_path / "x.msgpack"
    write_msgpack(path, tree)
    expected = flax.serialization.msgpack_serialize(copy.deepcopy(tree), in_place=True)
    assert path.read_bytes() == expected
    np.testing.assert_array_equal(read_msgpack(path)["b"]["kernel"], tree["b"]["kernel"])


def test_a_file_cut_anywhere_is_named(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="x.msgpack cannot be read: "):
            read_msgpack(path)


def leaf(shape: Any, kind: Any, data: Any) -> bytes:
    """The bytes of {"a": {"b": array}} with this shape, dtype and data."""
    inside = vendor.packb((shape, kind, data))
    return vendor.packb({"a": {"b": vendor.ExtType(1, inside)}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (leaf([2**40], "float32", b"1234"), "a/b of shape (1099511627776,) and float32 has 4 byt"),
        (leaf([2, -2], "float32", b"1234"), "a/b is not an array of numbers"),
        (leaf([1], "object", b"12345678"), "a/b is not an array of numbers"),
        (leaf([1], "float32", [1, 2]), "a/b is not an array of numbers"),
        (leaf({}, "float32", b"1234"), "a/b is not an array of numbers"),
        (vendor.packb({"a": {"b": 3}}), "a/b is not an array but int"),
        (vendor.packb({"a": {"b": None}}), "a/b is not an array but NoneType"),
        (vendor.packb({"a": {"b": vendor.ExtType(9, b"")}}), "a/b is not an array but ExtType"),
        (vendor.packb({"a": {b"b": {}}}), "a has the key b'b', which is not text"),
        (vendor.packb({"a": {msgpack.PIECES: True, "shape": {}}}), "the pieces of a do not make"),
        (vendor.packb([1]), "max_array_len"),
        (vendor.packb(3), "it holds no map of arrays"),
        (vendor.packb({}) + b"more", "4 bytes follow its end"),
        (b"\x82\xa1a\x80\xa1a\x80", "'a' appears twice"),
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\x81\xa1a" * 200 + b"\x80", "nested more than 64 deep"),
        (b"\x81\xa1a" * 100_000, ""),
        (b"cos\nsystem\n(S'true'\ntR.", "bytes follow its end"),
        (b"", "No more data"),
    ],
)
def test_a_file_that_flax_would_not_write_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "x.msgpack").write_bytes(data)
    with pytest.raises(ValueError, match="x.msgpack cannot be read: ") as caught:
        read_msgpack(tmp_path / "x.msgpack")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x.msgpack cannot be read: .*No such file"):
        read_msgpack(tmp_path / "x.msgpack")

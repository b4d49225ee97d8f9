"""Weights on disk: they are read as written, and written completely or not at all."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weights import arrays
from weights.arrays import read_weights, write_weights


@pytest.fixture
def params() -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    return {"a": {"b": {"scale": numbers.normal(size=3)}, "c": numbers.normal(size=(2, 5))}}


def test_float32_comes_back_as_it_was_and_float16_rounded(
    tmp_path: Path, params: dict[str, Any]
) -> None:
    for dtype in ("float32", "float16"):
        write_weights(tmp_path / dtype, params, dtype)
        found = read_weights(tmp_path / dtype, params)
        assert found["a"]["c"].dtype == np.float32
        expected = params["a"]["b"]["scale"].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(found["a"]["b"]["scale"], expected)
        assert (tmp_path / dtype).stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float16", "float32"]


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (np.inf, "float16"), (1e5, "float16")]
)
def test_weights_that_would_be_read_as_nan_or_infinite_are_not_written(
    tmp_path: Path, value: float, dtype: Any
) -> None:
    with pytest.raises(ValueError, match=r"a/b holds NaN, or numbers too large for float"):
        write_weights(tmp_path / "w", {"a": {"b": np.array([1, value])}}, dtype)
    assert not list(tmp_path.iterdir())


def test_transposed_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    params = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float32(1.5)}
    write_weights(tmp_path / "w", params, "float32")
    found = read_weights(tmp_path / "w", params)
    np.testing.assert_array_equal(found["a"], params["a"])
    assert found["b"].shape == ()


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, params, "float32")
    before = path.read_bytes()

    def full(flat: Any, beside: Path, metadata: Any) -> None:
        beside.write_bytes(before[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(arrays, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        write_weights(path, params, "float16")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_cut_file_is_named(tmp_path: Path, params: dict[str, Any], size: int) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, params, "float32")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="w.safetensors cannot be read"):
        read_weights(path, params)


@pytest.mark.parametrize(
    "data",
    [
        (2**40).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        (6).to_bytes(8, "little") + b'{"a":1',
        pickle.dumps({"a": print}),
        b'cos\nsystem\n(S"true"\ntR.',
        b"\x02\0\0\0\0\0\0\0{}more",
    ],
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="w.safetensors cannot be read"):
        read_weights(tmp_path / "w.safetensors", {})


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}%s}'
TWICE = b',"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}'


def with_size(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty; download or copy it again"),
        (with_size(HEADER % b"") + bytes(5), "it has 67 of 70 bytes; download or copy it again"),
        (with_size(HEADER % b"") + bytes(12), "it has 74 of 70 bytes"),
        (with_size(HEADER % TWICE) + bytes(16), "'a' appears twice"),
        (pickle.dumps({"a": [1]}, 2), "it is a torch file, whatever its name"),
        (pickle.dumps({"a": [1]}, 4), "it is a torch file, whatever its name"),
        (b"PK\3\4" + bytes([1] * 40), "it is a torch file, whatever its name"),
    ],
)
def test_the_reason_and_the_fix_are_said(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"w.safetensors cannot be read: {message}"):
        read_weights(path, {})


def test_a_header_whose_size_begins_as_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = (HEADER % b"").ljust(0x0480)
    path.write_bytes(with_size(header) + np.ones(2, np.float32).tobytes())
    assert path.read_bytes()[:2] == b"\x80\4"
    np.testing.assert_array_equal(read_weights(path, {"a": np.zeros(2)})["a"], np.ones(2))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w.safetensors cannot be read"):
        read_weights(tmp_path / "w.safetensors", {})


def test_other_arrays_are_refused(tmp_path: Path, params: dict[str, Any]) -> None:
    write_weights(tmp_path / "w", params, "float32")
    for other, message in (
        ({"a": {**params["a"], "d": np.zeros(1)}}, r"1 of 3 .* a/d: None instead of \(1,\)"),
        ({"a": {**params["a"], "c": np.zeros(9)}}, r"1 of 2 .* a/c: \(2, 5\) instead of \(9,\)"),
        ({"a": {"c": params["a"]["c"]}}, r"a/b/scale: \(3,\) instead of None"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / "w", other)

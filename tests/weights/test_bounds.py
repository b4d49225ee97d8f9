"""Hostile files of weights: made to take forever, or with unusable numbers."""

import json
import pickle
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from safetensors.numpy import save_file

from model.config import ModelConfig, SamplingConfig
from vqgan.config import VQGANConfig
from weights.arrays import read_weights
from weights.msgpack import read_msgpack
from weights.plans import Leaf, gather
from weights.torch_file import read_torch_file


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def checkpoint(folder: Path, data: bytes) -> Path:
    with zipfile.ZipFile(folder / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return folder / "x.ckpt"


def test_a_key_that_comes_last_again_is_found_at_once(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(200_000)]
    packer = msgpack.Packer()
    data = packer.pack_map_header(len(keys) + 1)
    data += b"".join(packer.pack(key) + packer.pack({}) for key in [*keys, keys[-1]])
    (tmp_path / "x.msgpack").write_bytes(data)
    with within(5), pytest.raises(ValueError, match="'k199999' appears twice"):
        read_msgpack(tmp_path / "x.msgpack")


def test_counts_that_the_bytes_do_not_hold_are_refused(tmp_path: Path) -> None:
    for data in (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff\xa1a"):
        (tmp_path / "x.msgpack").write_bytes(data)
        with within(1), pytest.raises(ValueError, match=r"x.msgpack cannot be read"):
            read_msgpack(tmp_path / "x.msgpack")


def test_numbers_that_share_a_place_are_no_keys(tmp_path: Path) -> None:
    """Multiples of 2⁶¹ − 1 have the hash 0, so each key would be compared with all before it."""
    same = {(2**61 - 1) * i: None for i in range(1, 3000)}
    many = pickle.dumps({"state_dict": {}, "optimizer": same}, 2)
    once = pickle.dumps(dict.fromkeys(same), 2)[2:-1]
    path = checkpoint(tmp_path, many[:-1] + once * 30 + b"0" * 30 + b".")
    with within(20), pytest.raises(ValueError, match=r"x.ckpt cannot be read: "):
        read_torch_file(path)
    memo = b"".join(b"p%d\n" % ((2**61 - 1) * i) for i in range(1, 1000))
    with within(2), pytest.raises(ValueError, match="remembers something as 23058430092136"):
        read_torch_file(checkpoint(tmp_path, b"\x80\x02}" + memo + b"."))


def safetensors(path: Path, header: Any, data: bytes = b"\0" * 4) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "X", None, 5, ["F32"], {}])
def test_kinds_of_numbers_that_are_not_read_are_named(tmp_path: Path, kind: Any) -> None:
    header = {"a/x": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}
    with pytest.raises(ValueError, match=r"x.safetensors cannot be read: a/x is .*only F64, F32"):
        read_weights(safetensors(tmp_path / "x.safetensors", header), {})


@pytest.mark.parametrize("header", [[], None, 5, {"a": 3}, {"a": {"dtype": "F32"}}, "x" * 100])
def test_headers_of_other_shapes_are_one_line(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ValueError, match="x.safetensors cannot be read") as caught:
        read_weights(safetensors(tmp_path / "x.safetensors", header), {})
    assert "\n" not in str(caught.value)


def test_a_header_of_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff" * 8 + b"{}")
    with within(1), pytest.raises(ValueError, match="no header of at most 16,777,216 bytes"):
        read_weights(tmp_path / "x", {})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, jnp.bfloat16])
def test_weights_with_nan_are_refused_by_the_array(
    tmp_path: Path, value: float, dtype: Any
) -> None:
    good, bad = np.ones((3, 2), dtype), np.ones(5, dtype)
    bad[3] = value
    save_file({"a/good": good, "b/bad": bad}, tmp_path / "w")
    like = {"a": {"good": good}, "b": {"bad": bad}}
    with pytest.raises(ValueError, match="w holds NaN or infinity in b/bad"):
        read_weights(tmp_path / "w", like)
    plan = {"a": Leaf(("theirs.good",), (3, 2)), "b": Leaf(("theirs.bad",), (5,))}
    with pytest.raises(ValueError, match=r"NaN or infinity in theirs.bad"):
        gather(tmp_path, {"theirs.good": good, "theirs.bad": bad}, plan, np.float32)


def test_large_numbers_whose_sum_overflows_are_weights(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    large = np.full(4, 3e38, np.float32)
    save_file({"a": large}, tmp_path / "w")
    np.testing.assert_array_equal(read_weights(tmp_path / "w", {"a": large})["a"], large)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 10**9),
        ("mlp_dim", 10**9),
        ("encoder_depth", 10**6),
        ("decoder_depth", 10**6),
        ("unroll", 10**9),
        ("sinkhorn_iterations", 1 << 24),
        ("text_length", 10**9),
        ("text_vocab_size", 10**9),
        ("image_vocab_size", 10**9),
        ("grid_size", 1 << 16),
        ("position_offset", 10**9),
    ],
)
def test_absurd_sizes_of_a_transformer_are_refused_by_name(name: str, value: int) -> None:
    word = "picture" if name == "grid_size" else name
    sizes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"{word}.* is more than"):
        ModelConfig(**sizes)


def test_sizes_that_are_absurd_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"come to more than 4\.\de\+12 parameters"):
        ModelConfig(dim=1 << 17, num_heads=4, mlp_dim=1 << 17, encoder_depth=64)


@pytest.mark.parametrize("name", ["image_size", "stem_channels", "codebook_size", "code_dim"])
def test_absurd_sizes_of_an_autoencoder_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 1,073,741,824 is more than"):
        replace(VQGANConfig(), **{name: 1 << 30})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 16 sizes"):
        replace(VQGANConfig(), channels=(1 << 30, 64))


def test_sampling_that_overflows_is_refused() -> None:
    for name, value in (("guidance_scale", 1e38), ("temperature", 1e39)):
        wrong: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match="is beyond"):
            SamplingConfig(**wrong)


def test_numbers_beyond_float32_are_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.array([1e300, 1.0])}, path)
    with pytest.raises(ValueError, match="holds NaN or infinity in a"):
        read_weights(path, {"a": np.zeros(2)})
    assert not recwarn.list

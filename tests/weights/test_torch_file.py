"""Torch checkpoints are read as data, and nothing in them is executed."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.torch_files import (
    Called,
    Hostile,
    Name,
    Tensor,
    pickled,
    state_dict,
    tensor,
    write_old,
    write_zip,
)
from weights.torch_file import read_torch_file

REFERENCE = Path(__file__).parents[1] / "reference" / "vqgan_torch"
NUMBERS = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "a.weight": NUMBERS.normal(size=(3, 2)).astype(np.float32),
    "a.half": NUMBERS.normal(size=5).astype(np.float16),
    "a.brain": NUMBERS.normal(size=(2, 2)).astype(jnp.bfloat16),
    "steps": np.array(7, np.int64),
}


@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
def test_every_kind_of_number_is_read_in_both_layouts(tmp_path: Path, write: Any) -> None:
    tensors, storages = state_dict(ARRAYS, is_old=write is write_old)
    for tree in (tensors, {"epoch": 3, "state_dict": tensors}):
        found = read_torch_file(write(tmp_path / "x.ckpt", tree, storages))
        assert list(found) == list(ARRAYS)
        for key, array in ARRAYS.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)


def test_views_of_one_storage_are_read_where_they_lie(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32)
    views = {
        "row": Tensor("0", "float32", 12, 4, (4,), (1,)),
        "turned": Tensor("0", "float32", 12, 0, (4, 3), (1, 4)),
        "none": Tensor("0", "float32", 12, 12, (0, 3), (3, 1)),
        "kept": Called(
            Name("torch._utils", "_rebuild_parameter"),
            (Tensor("0", "float32", 12, 2, (2,), (3,)), True, None),
        ),
    }
    found = read_torch_file(write_zip(tmp_path / "x.pt", views, {"0": whole}))
    np.testing.assert_array_equal(found["row"], whole[4:8])
    np.testing.assert_array_equal(found["turned"], whole.reshape(3, 4).T)
    np.testing.assert_array_equal(found["kept"], [2, 5])
    assert found["none"].shape == (0, 3)


def test_a_view_in_the_old_layout_begins_where_it_says(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32)
    views = {
        "all": Tensor("0", "float32", 12, 0, (12,), (1,), None),
        "some": Tensor("0", "float32", 12, 1, (3,), (1,), ("1", 5, 4)),
    }
    found = read_torch_file(write_old(tmp_path / "x.pt", views, {"0": whole}))
    np.testing.assert_array_equal(found["some"], [6, 7, 8])


def test_a_pickle_that_torch_wrote_is_read(tmp_path: Path) -> None:
    """The pickle of vqgan_res1.ckpt in ../shared/reference, without its storages of 3 MB."""
    data = (REFERENCE / "vqgan_res1.data.pkl").read_bytes()
    storages = {str(i): np.zeros(36864, np.float32) for i in range(185)}
    found = read_torch_file(write_zip(tmp_path / "x.ckpt", data, storages))
    assert len(found) == 185
    assert found["encoder.down.2.block.0.nin_shortcut.weight"].shape == (64, 32, 1, 1)
    assert sum(key.startswith("loss.") for key in found) == 2


def test_objects_that_trainers_save_beside_the_weights_are_ignored(tmp_path: Path) -> None:
    tensors, storages = state_dict(ARRAYS)
    beside = {
        "hyper_parameters": Called(
            Name("omegaconf.dictconfig", "DictConfig"), (), {"_content": {"lr": 1e-4}}
        ),
        "callbacks": {Name("pytorch_lightning.callbacks", "ModelCheckpoint"): {"best": 1.0}},
        "loss": Called(Name("numpy.core.multiarray", "scalar"), (Name("numpy", "dtype"), "x")),
        "state_dict": Called(Name("collections", "OrderedDict"), ()),
    }
    found = read_torch_file(
        write_zip(tmp_path / "x.ckpt", {**beside, "state_dict": tensors}, storages)
    )
    assert list(found) == list(ARRAYS)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_by_the_name_of_what_it_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"state_dict": Hostile()}, protocol=protocol)
    (tmp_path / "plain.ckpt").write_bytes(data)
    write_zip(tmp_path / "zip.ckpt", data, {})
    for name in ("plain.ckpt", "zip.ckpt"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: .*(posix.system|INST)"):
            read_torch_file(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("torch", "load"), ("torch._utils", "_import"), ("os", "system")],
)
def test_other_imports_are_refused_even_if_nothing_calls_them(
    tmp_path: Path, module: str, name: str
) -> None:
    with pytest.raises(ValueError, match=f"it would run '{module}.{name}'"):
        read_torch_file(write_zip(tmp_path / "x.ckpt", {"a": Name(module, name)}, {}))


HUGE = 2**40
BAD_VIEWS = {
    "beyond": Tensor("0", "float32", 6, 1, (3, 2), (2, 1)),
    "strides": Tensor("0", "float32", 6, 0, (3,), (3,)),
    "spread": Tensor("0", "float32", 6, 0, (HUGE,), (0,)),
    "claimed": Tensor("0", "float32", HUGE, 0, (HUGE,), (1,)),
    "overflow": Tensor("0", "float32", 2**80, 0, (2**80,), (1,)),
    "negative": Tensor("0", "float32", 6, 0, (-1, -6), (1, 1)),
    "backwards": Tensor("0", "float32", 6, 5, (6,), (-1,)),
    "before": Tensor("0", "float32", 6, -1, (2,), (1,)),
    "ranks": Tensor("0", "float32", 6, 0, (6,), (1, 1)),
    "words": Tensor("0", "float32", 6, 0, ("6",), (1,)),
    "nowhere": Tensor("9", "float32", 6, 0, (6,), (1,)),
    "outside": Tensor("../data.pkl", "float32", 1, 0, (1,), (1,)),
}


@pytest.mark.parametrize("key", BAD_VIEWS)
def test_a_tensor_that_is_not_in_its_storage_is_named(tmp_path: Path, key: str) -> None:
    path = write_zip(tmp_path / "x.ckpt", {key: BAD_VIEWS[key]}, {"0": np.zeros(6, np.float32)})
    with pytest.raises(ValueError, match=f"x.ckpt cannot be read: {key}: "):
        read_torch_file(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    tensors, storages = state_dict({"a": np.zeros(2**20, np.float32)})
    path = write_zip(tmp_path / "x.ckpt", tensors, storages, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="x.ckpt cannot be read: .* is compressed"):
        read_torch_file(path)


def test_other_byte_orders_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", pickled({}))
        archive.writestr("x/byteorder", "big")
    with pytest.raises(ValueError, match="not little-endian"):
        read_torch_file(tmp_path / "x.ckpt")


@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
def test_a_file_cut_anywhere_is_named(tmp_path: Path, write: Any) -> None:
    tensors, storages = state_dict(ARRAYS, is_old=write is write_old)
    whole = write(tmp_path / "x.ckpt", tensors, storages).read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "x.ckpt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="x.ckpt cannot be read: "):
            read_torch_file(tmp_path / "x.ckpt")


def test_noise_in_a_file_gives_one_line_or_other_numbers(tmp_path: Path) -> None:
    tensors, storages = state_dict(ARRAYS)
    whole = write_zip(tmp_path / "x.ckpt", tensors, storages).read_bytes()
    for _ in range(500):
        noisy = bytearray(whole)
        for place in NUMBERS.integers(0, len(whole), 3):
            noisy[place] = NUMBERS.integers(256)
        (tmp_path / "x.ckpt").write_bytes(noisy)
        problem = ""
        try:
            read_torch_file(tmp_path / "x.ckpt")
        except ValueError as error:
            problem = str(error)
        assert not problem or ("x.ckpt cannot be read" in problem and "\n" not in problem)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"PK\x03\x04" + b"\0" * 100, "not a zip file"),
        (b'\x02\0\0\0\0\0\0\0{"', "it is a safetensors file"),
        (pickled({"a": 1}), "is not a torch file"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02(tR.", "damaged"),
        (b"\x80\x02" + b"}" * 100, "exhausted before seeing STOP"),
        (b"\x8e" + b"\xff" * 8, "bytes"),
    ],
)
def test_a_file_that_is_no_torch_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ValueError, match=f"x.pt cannot be read: .*{message}"):
        read_torch_file(tmp_path / "x.pt")


BOMB = b"]q\0" + b"".join(b"0]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60))
"""A list of twice a list of twice a list, …; written out it would be 2^60 long."""
STORAGE = b"(U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\6tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ENDLESS = {
    "value": (BOMB, "a: it is not a tensor"),
    "storage": (b"(U\7storage" + BOMB + b"K\0K\0K\0tQ", "it refers to"),
    "shape": (REBUILD + b"(" + STORAGE + b"K\0" + BOMB + b")tR", "its shape and strides"),
    "loop": (b"ctorch._utils\n_rebuild_parameter\n]q\0Rq\1h\0h\1a0", "a: it is not a tensor"),
    "depth": (b"(" * 5000 + b"t" * 5000, "a: it is not a tensor"),
    "identity": (b"(" * 5000 + b"t" * 5000 + b"Q", "it refers to"),
}


@pytest.mark.parametrize(("value", "message"), ENDLESS.values(), ids=list(ENDLESS))
def test_a_pickle_that_would_never_end_ends(tmp_path: Path, value: bytes, message: str) -> None:
    data = b"\x80\x02}U\x01a" + value + b"s."
    path = write_zip(tmp_path / "x.ckpt", data, {"0": np.zeros(6, np.float32)})
    with pytest.raises(ValueError, match=f"x.ckpt cannot be read: .*{message}") as caught:
        read_torch_file(path)
    assert len(str(caught.value)) < 600


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x.pt cannot be read: .*No such file"):
        read_torch_file(tmp_path / "x.pt")


def test_two_pickles_are_not_guessed_between(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        for folder in "ab":
            archive.writestr(f"{folder}/data.pkl", pickled({}))
    with pytest.raises(ValueError, match="2 members data.pkl"):
        read_torch_file(tmp_path / "x.ckpt")


def test_only_the_looked_at_is_read(tmp_path: Path) -> None:
    array = np.zeros(6, np.float32)
    tree = {"a": tensor("0", array)}
    found = read_torch_file(write_zip(tmp_path / "x.ckpt", tree, {"0": array}))
    assert not found["a"].flags.owndata
    assert not found["a"].flags.writeable

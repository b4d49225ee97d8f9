"""A folder of the wrong kind is named as what it is; a value of the wrong type by file and key."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Config, from_yaml
from data.text.tokens import open_tokenizer
from drawing.opening import open_checkpoint
from model import pretrained
from release import ReleaseConfig, release
from vqgan import pretrained as pretrained_vqgan
from weights.checksums import SUMS_FILE

WRONG: list[Any] = [None, [], "x", -1, 10**30, float("nan"), {"a": {"b": [1]}}, True, 1.5, [[[]]]]


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that also holds the run's settings."""
    out = tmp_path_factory.mktemp("wrong") / "release"
    release(ReleaseConfig(str(run_folder), str(out)))
    (out / SUMS_FILE).unlink()  # else the checksums would be refused first
    shutil.copy(run_folder / "config.yaml", out / "config.yaml")
    return out


def places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a tree; of lists only the first two entries."""
    yield place
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*place, key))
    if isinstance(tree, list):
        for i, value in enumerate(tree[:2]):
            yield from places(value, (*place, i))


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return tree


FILES: dict[str, Callable[[Path], Any]] = {
    "config.json": lambda path: pretrained.read(path.parent),
    "vqgan/config.json": lambda path: pretrained_vqgan.load(path.parent),
    "tokenizer/tokenizer.json": lambda path: open_tokenizer(path.parent).encode(["a b"], 8),
    "config.yaml": lambda path: from_yaml(Config, path),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_type_anywhere_is_one_line_that_names_the_file(
    folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / name
    is_yaml = path.suffix == ".yaml"
    load: Any = yaml.safe_load if is_yaml else json.loads
    dump: Any = yaml.safe_dump if is_yaml else json.dumps
    tree, messages = load(path.read_text()), []
    for number, place in enumerate(list(places(tree))[: 25 if is_yaml else 80]):
        for i in range(1 if is_yaml else 3):
            wrong = WRONG[(number + 3 * i) % len(WRONG)]
            path.write_text(dump(replaced(tree, place, wrong)))
            try:
                FILES[name](path)
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 8
    assert not [line for line in messages if str(path.parent) not in line or "\n" in line]


def test_a_transformer_is_no_vqgan(folder: Path, run_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a transformer, not a VQGAN; its VQGAN is .*vqgan"):
        pretrained_vqgan.load(folder)
    with pytest.raises(ValueError, match=r"is a run, not a VQGAN; its VQGAN is .*vqgan"):
        pretrained_vqgan.load(run_folder)


def test_a_vqgan_is_no_transformer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a VQGAN, .* name a transformer"):
        open_checkpoint(folder / "vqgan")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("quantizer: {}\nmodel: {}\n")
    with pytest.raises(ValueError, match="is the run of a VQGAN"):
        open_checkpoint(tmp_path)

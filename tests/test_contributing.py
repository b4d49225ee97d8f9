"""The code blocks of CONTRIBUTING.md are executed unchanged, with the names of the file they are
for, and do what the text says."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from command_line.parser import parse_config
from config import from_yaml
from data.sources import ReadingConfig, Source, kinds, open_source
from data.sources.files.tree import Tree
from model import blocks, transformer
from model import config as model_config
from optim import optimizers
from tests import test_extending as extending
from tests.source_tree import ROOT
from tests.tiny import TINY
from training.devices.devices import Devices
from training.recipe import BatchAt, Recipe
from training.session import train
from training.update.observables import Observable, Update

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL)


def execute(beginning: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The names that exist after the block with a line of this beginning has run. It starts with
    `names`."""
    (block,) = (one for one in BLOCKS if re.search(rf"^{re.escape(beginning)}", one, re.MULTILINE))
    found = dict(names)
    exec(compile(block, "CONTRIBUTING.md", "exec"), found)
    return found


def test_each_block_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    begun = re.findall(r"= execute\(\s*[\"'](.+?)[\"'],", tests)
    assert len(begun) == len(BLOCKS) == 5


def test_the_norm_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    placements = dict(blocks.PLACEMENTS)
    found = execute('PLACEMENTS["own"]', {**vars(blocks), "PLACEMENTS": placements})
    monkeypatch.setitem(blocks.PLACEMENTS, "own", found["PLACEMENTS"]["own"])
    monkeypatch.setitem(model_config.CHOICES, "placement", ("own",))
    model = transformer.build(dataclasses.replace(TINY, placement="own"))  # type: ignore[arg-type]
    [layer] = model.shapes["decoder"].values()
    assert set(layer["attention_residual"]) == {"norm_after"}
    assert set(layer["mlp_residual"]) == {"norm_after", "norm_sum"}


def test_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {**vars(optimizers), "jax": jax, "jnp": jnp, "DIRECTIONS": dict(optimizers.DIRECTIONS)}
    found = execute("signs = ", names)
    monkeypatch.setattr(optimizers, "DIRECTIONS", found["DIRECTIONS"])
    optimizer = optimizers.make_optimizer(dataclasses.replace(extending.PLAIN, name="signs"))  # type: ignore[arg-type]
    params = {"x": jnp.zeros(3)}
    updates, _ = optimizer.update({"x": jnp.array([-2.0, 0.0, 3.0])}, optimizer.init(params))
    np.testing.assert_array_equal(updates["x"], [-1, 0, 1])


def test_the_observable(tmp_path: Path) -> None:
    names = {"Update": Update, "Mapping": Mapping, "Observable": Observable, "jax": jax}
    names |= {"jnp": jnp, "dataclasses": dataclasses, "recipe": extending.RECIPE}
    found = execute("def look(", names)
    extending.run(tmp_path, found["recipe"])
    seen = ["gradient/largest" in row for row in extending.rows(tmp_path)]
    assert seen == [False, True, False, True]


def test_the_data_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"Tree": Tree, "ReadingConfig": ReadingConfig, "Source": Source}
    found = execute("KINDS = (", {**vars(kinds), **names, "Swatches": extending.Swatches})
    monkeypatch.setattr(kinds, "KINDS", found["KINDS"])
    (tmp_path / "swatches.txt").write_text("deep red,#a00000\nblue,#0000ff\n")
    source = open_source(tmp_path, config=ReadingConfig(kind="swatches"))
    assert [example.captions for example in source] == [(("deep red", 1.0),), (("blue", 1.0),)]


def test_the_trainer(tmp_path: Path) -> None:
    """Two updates run. A start with other data is refused, as the block's comment says."""

    def batches(plan: Any, devices: Devices) -> BatchAt:
        return extending.batch

    names = {"Recipe": Recipe, "LineConfig": extending.LineConfig, "init": extending.RECIPE.init}
    names |= {"loss": extending.loss, "batches": batches, "shapes": lambda size: {}}
    names |= {"train": train, "parse_config": parse_config, "from_yaml": from_yaml}
    flags = [f"--output_dir={tmp_path / 'run'}", "--training.batch_size=4"]
    found = execute("def line_recipe(", {**names, "flags": [*flags, "--training.steps=2"]})
    assert len(extending.rows(tmp_path / "run")) == 2
    other = parse_config(
        extending.LineConfig,
        [*flags, "--training.steps=3", "--slope=9", "--allow_changes", "slope"],
    )
    with pytest.raises(ValueError, match=r"other data: line \(was of slope 2.0, now of slope 9.0"):
        train(other, found["line_recipe"], from_yaml)

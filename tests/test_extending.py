"""The project is extended by values. Each test adds one without editing a file of the project."""

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from command_line.parser import parse_config
from config import from_yaml
from data.encode import main as encode
from data.encoding.config import EncodeConfig
from data.records import open_records
from data.sources import Example, ReadingConfig, Source, kinds
from data.sources.base import Unused
from data.sources.files.tree import Tree
from model import blocks, transformer
from model import config as model_config
from model.blocks import LayerNorms, Norms
from optim import optimizers
from optim.config import OptimConfig
from tests.tiny import ONE_LEVEL_VQGAN, TINY
from training.config import CheckpointConfig, RunConfig, TrainingConfig
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.hooks import evaluate_loss
from training.loop import Hook
from training.recipe import BatchAt, Recipe, Run
from training.reports import metrics
from training.session import train
from training.update.loss import LossContext
from training.update.observables import Observable, Update
from training.update.players import MODEL, Player
from training.update.state import TrainState
from vqgan import autoencoder
from vqgan import pretrained as pretrained_vqgan

RATE = 0.01
PLAIN = OptimConfig(
    *("sgd", RATE), beta1=0.0, warmup_steps="0 updates", decay_fraction=0.0, clip_norm=0.0
)


def batch(n: int) -> Any:
    """The four targets of update n."""
    target = np.random.default_rng(n).normal(size=(4, 3)).astype(np.float32)
    return {"target": target, "example_index": np.arange(4, dtype=np.int32)}


def loss(params: dict, batch: Any, keys: Any, context: LossContext) -> tuple[jax.Array, dict]:
    """Half the squared distance from the targets, so that the gradient is x − their mean."""
    return 0.5 * jnp.square(params["x"][None] - batch["target"]).sum(1).mean(), {}


RECIPE = Recipe(
    init=lambda key: {"x": jnp.zeros((3,))},
    loss=loss,
    open_batches=lambda plan, devices: batch,
    batch_shapes=lambda size: {},
    depends_on={},
)


def run(folder: Path, recipe: Recipe = RECIPE, optim: OptimConfig = PLAIN) -> TrainState:
    """The state after four updates of a recipe."""
    config = RunConfig(
        output_dir=str(folder),
        optim=optim,
        training=TrainingConfig(steps=4, batch_size=4),
        checkpoint=CheckpointConfig(every=2),
    )
    return train(config, lambda config: recipe, from_yaml)


def rows(folder: Path) -> list[dict[str, Any]]:
    return metrics.read(folder / "metrics.jsonl")


def test_a_norm_placement_is_a_row_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The added placement normalises only a branch's output, and the sum after the feed-forward."""
    monkeypatch.setitem(
        blocks.PLACEMENTS,
        "own",
        LayerNorms(Norms(after="scaled"), Norms(after="scaled", after_sum="scaled")),
    )
    monkeypatch.setitem(model_config.CHOICES, "placement", ("own",))  # its name, for the flag
    model = transformer.build(dataclasses.replace(TINY, placement="own"))  # type: ignore[arg-type]
    params = model.init(jax.random.key(0))
    [layer] = params["decoder"].values()
    found = {name: set(part) for name, part in layer.items() if name.endswith("residual")}
    assert found == {
        "attention_residual": {"norm_after"},
        "cross_residual": {"norm_after"},
        "mlp_residual": {"norm_after", "norm_sum"},
    }
    text, mask = jnp.ones((1, 6), jnp.int32), jnp.ones((1, 6), bool)
    tokens = jnp.arange(9)[None]
    logits = model.apply(params, text, mask, tokens)
    later = model.apply(params, text, mask, tokens.at[0, 5:].set(0))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[:, :5], later[:, :5])
    assert not np.array_equal(logits[:, 5:], later[:, 5:])


def test_an_optimizer_is_a_row_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The added optimizer uses the sign of the gradient: each number moves by the learning rate."""
    signs = optax.stateless(lambda grads, params: jax.tree.map(jnp.sign, grads))
    monkeypatch.setitem(optimizers.DIRECTIONS, "signs", lambda config, spread: signs)
    state = run(tmp_path, optim=dataclasses.replace(PLAIN, name="signs"))  # type: ignore[arg-type]
    x = np.zeros(3, np.float32)
    for n in range(4):
        x -= np.float32(RATE) * np.sign(x - batch(n)["target"].mean(0))
    np.testing.assert_allclose(state.params["x"], x, rtol=1e-6)


def test_an_observable_is_a_function_of_the_update(tmp_path: Path) -> None:
    def look(update: Update) -> Mapping[str, jax.Array]:
        gradient = update.grads["x"]
        return {"gradient/largest": jnp.abs(gradient).max(), "gradient/signs": jnp.sign(gradient)}

    run(tmp_path, dataclasses.replace(RECIPE, observables=[Observable(2, look)]))
    found = rows(tmp_path)
    assert ["gradient/signs" in row for row in found] == [False, True, False, True]
    x = np.zeros(3)
    for n in range(4):
        gradient = x - batch(n)["target"].mean(0)
        x -= RATE * gradient
        if n % 2:
            assert found[n]["gradient/largest"] == pytest.approx(np.abs(gradient).max(), rel=1e-5)
            assert found[n]["gradient/signs"] == np.sign(gradient).tolist()


def test_a_second_player_is_a_value(tmp_path: Path) -> None:
    """The added player follows the model from the second update on: y ← y − rate · (y − x)."""

    def follow(params: dict, batch: Any, keys: Any, context: LossContext) -> tuple[jax.Array, dict]:
        away = params["y"] - context.players[MODEL]["x"]
        return 0.5 * jnp.square(away).sum(), {"away": jnp.abs(away).max()}

    follower = Player(
        init=lambda key: {"y": jnp.ones((3,))},
        loss=follow,
        optimizer=optimizers.make_optimizer(PLAIN),
        schedule=lambda step: jnp.float32(0.5),
        first_step=1,
    )
    state = run(tmp_path, dataclasses.replace(RECIPE, players={"follower": follower}))
    x, y = np.zeros(3), np.ones(3)
    for n in range(4):
        old = x
        x = x - RATE * (x - batch(n)["target"].mean(0))
        y = y - 0.5 * (y - old) if n else y
    np.testing.assert_allclose(state.params["x"], x, rtol=1e-5)
    assert state.players is not None
    np.testing.assert_allclose(state.players["follower"].params["y"], y, rtol=1e-5)
    assert [row["follower/away"] is None for row in rows(tmp_path)] == [True, False, False, False]


class Swatches(Source):
    """Squares of one colour, from a text file with lines such as "deep red,#a00000"."""

    def __init__(self, tree: Tree, config: ReadingConfig) -> None:
        self.kind, self.path = "swatches", tree.folder
        self.files = [tree.path("swatches.txt")]
        self._lines = self.files[0].read_text().splitlines()
        self.damage, self.unused, self.num_captioned = {}, Unused(), len(self._lines)
        self.about, self.sought = "swatches", "swatches.txt names the colours"

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Example:
        caption, colour = self._lines[index].split(",")
        file = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        key = f"{index:03}"
        return Example(key, file.getvalue(), ((caption, 1.0),), "", {}, "swatches.txt", key)


def open_swatches(tree: Tree, config: ReadingConfig) -> Source | None:
    return Swatches(tree, config) if "swatches.txt" in tree.found else None


def test_a_data_source_is_a_class_and_a_row_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures are encoded to records like those of any source."""
    kind = kinds.Kind("swatches", "a text file of colours", open_swatches)
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, kind))
    lines = [
        f"{shade} blue,#{level:02x}{level:02x}ff"
        for shade, level in zip("abcdefgh", range(0, 240, 30), strict=True)
    ]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "swatches.txt").write_text("\n".join(lines))
    params = autoencoder.build(ONE_LEVEL_VQGAN).init(jax.random.key(1))
    pretrained_vqgan.save(tmp_path / "vqgan", ONE_LEVEL_VQGAN, params)
    encode(
        EncodeConfig(
            source=(str(tmp_path / "own"),),
            kind="swatches",
            out=str(tmp_path / "records"),
            vqgan=str(tmp_path / "vqgan"),
            text_length=8,
            held_out=0.0,
        )
    )
    records = open_records(tmp_path / "records")
    assert len(records) == len(records.rows("train")) == 8
    assert set(records.some_captions(8)) == {line.split(",")[0] for line in lines}


@dataclass(frozen=True)
class LineTraining(TrainingConfig):
    """Length and intervals of the second trainer's runs, and one setting of its loss."""

    ridge: float = 0.0
    """Weight of the squared slope."""


@dataclass(frozen=True)
class LineConfig(RunConfig):
    """All settings of the second trainer's runs."""

    training: LineTraining = dataclasses.field(default_factory=LineTraining)
    """Length and intervals."""
    slope: float = 2.0
    """Slope of the line on which the data are."""


def line_recipe(config: LineConfig) -> Recipe:
    """A recipe that fits a straight line to points."""

    def points(n: int, size: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng([config.seed, n]).normal(size=size).astype(np.float32)
        y = np.float32(config.slope) * x + np.float32(1)
        return {"x": x, "y": y, "example_index": np.arange(size, dtype=np.int32)}

    def loss(params: dict, batch: Any, keys: Any, context: LossContext) -> tuple[jax.Array, dict]:
        away = params["slope"] * batch["x"] + params["offset"] - batch["y"]
        ridge = config.training.ridge * jnp.square(params["slope"])
        return jnp.square(away).mean() + ridge, {"train/away": jnp.abs(away).mean()}

    def batches(plan: BatchPlan, devices: Devices) -> BatchAt:
        return lambda n: points(n, plan.examples(n + 1) - plan.examples(n))

    def hooks(run: Run) -> list[Hook]:
        away = lambda params, batch: (  # noqa: E731
            np.square(params["slope"] * batch["x"] + params["offset"] - batch["y"]).sum(),
            len(batch["x"]),
        )
        return [Hook(5, evaluate_loss(away, {"test": lambda: [points(1000, 16)]}))]

    def finish(run: Run, state: TrainState) -> None:
        (run.folder / "line.txt").write_text(str(state.params["slope"]))

    return Recipe(
        init=lambda key: {"slope": jax.random.normal(key, ()), "offset": jnp.zeros(())},
        loss=loss,
        open_batches=batches,
        batch_shapes=lambda size: {
            name: jax.ShapeDtypeStruct((size,), dtype)
            for name, dtype in (
                ("x", jnp.float32),
                ("y", jnp.float32),
                ("example_index", jnp.int32),
            )
        },
        depends_on={"line": f"of slope {config.slope}"},
        splits=("test",),
        hooks=hooks,
        finish=finish,
    )


def test_a_second_trainer_is_a_recipe_and_its_settings(tmp_path: Path) -> None:
    """It has flags, evaluation, checkpoints and resume like train.py."""

    def trained(folder: str, steps: int) -> TrainState:
        flags = f"--output_dir={tmp_path / folder} --training.steps={steps} --slope=3"
        more = "--training.batch_size=8 --optim.learning_rate=0.1 --optim.decay_fraction=0"
        best = "--checkpoint.every=10 --checkpoint.keep_best=eval/test/loss"
        config = parse_config(LineConfig, f"{flags} {more} {best}".split())
        return train(config, line_recipe, from_yaml)

    straight = trained("straight", 60)
    trained("resumed", 30)
    resumed = trained("resumed", 60)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert float(straight.params["slope"]) == pytest.approx(3, abs=0.2)
    assert float(straight.params["offset"]) == pytest.approx(1, abs=0.2)
    losses = [row["eval/test/loss"] for row in rows(tmp_path / "resumed") if row["step"] % 5 == 0]
    assert len(losses) == 12
    assert losses[-1] < 0.1 * losses[0]
    assert (tmp_path / "resumed" / "line.txt").is_file()
    other = parse_config(LineConfig, [f"--output_dir={tmp_path / 'resumed'}"])
    with pytest.raises(ValueError, match=r"slope \(was 3\.0, now 2\.0\)"):
        train(other, line_recipe, from_yaml)

"""A run survives poisoned updates: NaN in the loss or in a gradient, and a batch of noise."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recipe
import train
from command_line.parser import parse_config
from config import Config
from tests.entry.test_drills import flags, saved
from tests.entry.test_train import losses
from training.reports import logbook

pytestmark = pytest.mark.slow
Batch = dict[str, Any]


def no_loss(value: jax.Array, params: Any, is_poison: jax.Array) -> jax.Array:
    return jnp.where(is_poison, jnp.nan, value)


def no_gradient(value: jax.Array, params: Any, is_poison: jax.Array) -> jax.Array:
    """The same loss with a NaN gradient, since the square root has none at 0."""
    nothing = 0 * sum(leaf.sum() for leaf in jax.tree.leaves(params))
    return value + jnp.sqrt(jnp.where(is_poison, nothing, 1.0)) - jnp.where(is_poison, 0.0, 1.0)


def noise(batch: Batch) -> Batch:
    """The batch with random image tokens."""
    tokens = batch["image_tokens"]
    drawn = np.random.default_rng(0).integers(0, 32, tokens.shape)
    return {**batch, "image_tokens": drawn.astype(tokens.dtype)}


class Poisoned:
    """The batches of a run, with `change` applied to those of some numbers."""

    def __init__(
        self, batches: Any, numbers: Collection[int], change: Callable[[Batch], Batch]
    ) -> None:
        self._batches, self._numbers, self._change = batches, numbers, change
        self.rows = batches.rows

    def at(self, n: int) -> Batch:
        batch = self._batches.at(n)
        is_poison = np.full(len(batch["example_index"]), n in self._numbers)
        batch = self._change(batch) if n in self._numbers else batch
        return {**batch, "is_poison": is_poison}


@contextlib.contextmanager
def poisoned(
    numbers: Collection[int],
    harm: Callable[..., jax.Array] = lambda value, params, is_poison: value,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Iterator[None]:
    """In this context train.py applies `harm` to the loss and `change` to the batches of these
    numbers."""

    def make_loss(*words: Any, **more: Any) -> Callable:
        loss = make(*words, **more)

        def loss_with_harm(
            params: Any, batch: Any, keys: jax.Array, context: Any
        ) -> tuple[jax.Array, Any]:
            value, metrics = loss(params, batch, keys, context)
            return harm(value, params, batch["is_poison"].any()), metrics

        return loss_with_harm

    make, opened = recipe.make_loss, recipe.open_training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "make_loss", make_loss)
        patch.setattr(
            recipe, "open_training", lambda *w, **m: Poisoned(opened(*w, **m), numbers, change)
        )
        yield


def run(words: list[str], numbers: Collection[int], *harm: Any, **change: Any) -> None:
    """Run train.py in this process with poisoned batches."""
    with poisoned(numbers, *harm, **change):
        train.main(parse_config(Config, words))


def events(run: Path) -> list[tuple[str, int | None]]:
    return [(entry["event"], entry["step"]) for entry in logbook.read(run)][1:-1]


@pytest.mark.parametrize("harm", [no_loss, no_gradient])
def test_updates_with_nan_are_skipped_and_a_replay_is_equal(
    records_folder: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    harm: Callable[..., jax.Array],
) -> None:
    runs, numbers = [tmp_path / name for name in ("one", "replay")], [20, 30, 31, 32, 33, 34]
    for folder in runs:
        run(flags(records_folder, folder, "--training.steps=60"), numbers, harm)
    assert events(runs[0]) == [("skip", n + 1) for n in numbers]
    is_number = [loss is not None for _, loss in losses(runs[0])]
    assert is_number == [harm is no_gradient or n not in numbers for n in range(60)]
    assert losses(runs[0])[-1][1] < losses(runs[0])[15][1]
    assert saved(runs[0]) == saved(runs[1])
    what = harm.__name__.removeprefix("no_")
    record_property(
        "figure", f"NaN in the {what} of 1 and of 5 updates running: 6 skipped, a replay is equal"
    )


@pytest.mark.parametrize("on_spike", ["skip", "rollback"])
def test_a_batch_of_noise_is_skipped_or_rolled_back(
    records_folder: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    on_spike: str,
) -> None:
    runs = [tmp_path / name for name in ("one", "replay")]
    more = [f"--training.on_spike={on_spike}", "--training.spike_window=32"]
    more += ["--training.steps=160", "--training.rollback_batches=3", "--loss.token_noise=0"]
    for folder in runs:
        run(flags(records_folder, folder, *more), [125], change=noise)
    rolled = [("rollback", 126), ("skip batches", 120)]
    assert events(runs[0]) == ([("spike", 126)] if on_spike == "skip" else rolled)
    rows = losses(runs[0])
    assert [step for step, _ in rows] == list(range(1, 161))
    assert losses(runs[1]) == rows
    assert saved(runs[0]) == saved(runs[1])
    spike = next(e for e in logbook.read(runs[0]) if e["event"] in ("spike", "rollback"))["text"]
    usual = float(np.mean([loss for _, loss in rows[100:120]]))
    end = float(np.mean([loss for _, loss in rows[-10:]]))
    assert end < usual
    record_property(
        "figure",
        f"a batch of noise, {on_spike}: {spike.split(',')[0]}; {usual:.2f} before it, {end:.2f} at "
        "the end, a replay is equal",
    )

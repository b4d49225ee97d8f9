"""Runs that share compiled programs end bit-equal to runs in separate processes."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config import Config
from data.config import DataConfig
from optim.config import OptimConfig
from tests.training.test_session import TRAINING, World, assert_same
from training.update import shared
from training.update.shared import Programs
from training.update.state import TrainState


def end_of(
    folder: Path, programs: Programs | None, seed: int, steps: int, **optim: Any
) -> TrainState:
    """The last state of a run in a World with one poisoned batch."""
    world = World(folder, {7: float("nan")})
    training = dataclasses.replace(TRAINING, steps=steps)
    world.change(seed=seed, training=training, optim=OptimConfig(clip_norm=1.0, **optim))
    return world.run(programs)


@pytest.mark.parametrize(
    "name", ["adamw", pytest.param("sgd", marks=pytest.mark.slow), "schedule_free"]
)
def test_seeds_rates_and_lengths_share_programs_and_change_nothing(
    tmp_path: Path, name: str
) -> None:
    programs = Programs()
    cases: list[dict[str, Any]] = [
        {"seed": 0, "steps": 12, "learning_rate": 0.01},
        {"seed": 7, "steps": 12, "learning_rate": 0.01},
        {"seed": 7, "steps": 17, "learning_rate": 0.0371},
        {"seed": 7, "steps": 17, "learning_rate": 0.0371, "schedule": "cosine"},
    ]
    alone, together = (
        [end_of(tmp_path / f"{n}{kind}", kept, name=name, **c) for n, c in enumerate(cases)]
        for kind, kept in (("alone", None), ("same", programs))
    )
    assert len(programs) == 2  # the first state and the update
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_runs_that_compile_differently_share_no_program(tmp_path: Path) -> None:
    optim, programs = {"learning_rate": 0.01}, Programs()
    for n, more in enumerate(({}, {"weight_decay": 0.1}, {"beta1": 0.8})):
        end_of(tmp_path / str(n), programs, 0, 9, **optim, **more)
    assert len(programs) == 6


def test_the_program_that_was_used_longest_ago_is_dropped() -> None:
    programs, made = Programs(most=2), []

    def make(key: str) -> str:
        made.append(key)
        return key

    assert [programs.get(key, partial(make, key)) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]
    assert len(programs) == 2


def test_independent_decay_keeps_the_rate_in_the_program() -> None:
    keys = {
        shared._key(Config(optim=OptimConfig(learning_rate=rate, independent_decay=independent)))
        for rate in (0.1, 0.2)
        for independent in (False, True)
    }
    assert len(keys) == 3


def test_where_a_run_starts_and_what_it_is_judged_by_do_not_change_its_programs() -> None:
    changed = (
        {"init_from": "other"},
        {"branch_from": "other/checkpoints/4"},
        {"allow_changes": ("seed",)},
        {"choose_sampling": True},
        {"data": DataConfig(validation="other")},
    )
    assert {shared._key(Config(**one)) for one in changed} == {shared._key(Config())}
    assert shared._key(Config(data=DataConfig(records="other"))) != shared._key(Config())

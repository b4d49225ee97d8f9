"""Shampoo gives the trajectories of the package with which dalle-mini was trained.

The README of the reference vectors describes tests/reference/shampoo. An update may differ by ten
times the rounding that is noted there, or by 1e-6 if that is more. `more.json` is ours, from the
same package, for settings that the other files do not vary.
"""

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from optim.shampoo import ShampooState
from tests.optim.shampoo_settings import shampoo_from_reference_settings

FOLDER = Path(__file__).parent.parent / "reference" / "shampoo"
ABOUT = json.loads((FOLDER / "shampoo.json").read_text())
COMBOS, NAMES = ABOUT["combos"], list(ABOUT["shapes"])
SETTINGS = COMBOS["rmsprop_normalized"]["settings"]
MORE = json.loads((FOLDER / "more.json").read_text())["combos"]
PROBLEM = load_file(FOLDER / "problem.safetensors")
KINDS = (("statistics", "statistics", 1e-6), ("preconditioners", "preconditioner", 1e-4))


def trajectory(settings: dict[str, Any], steps: int = 60, **options: Any) -> tuple[Any, ...]:
    """Updates and parameters after each step, by name and step; and the last state."""
    optimizer = shampoo_from_reference_settings(**settings, **options)
    params = {name: jnp.asarray(PROBLEM[f"params/{name}"]) for name in NAMES}
    grads = {name: jnp.asarray(PROBLEM[f"grads/{name}"][:steps]) for name in NAMES}

    def one(carry: Any, gradient: Any) -> tuple[Any, Any]:
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), (updates, params)

    run = jax.jit(lambda params, grads: jax.lax.scan(one, (params, optimizer.init(params)), grads))
    (_, state), (updates, after) = jax.device_get(run(params, grads))  # slices compile programs
    return updates, after, state


@cache
def in_float32(combo: str) -> tuple[Any, ...]:
    return trajectory(COMBOS[combo]["settings"])


def worst_difference(found: Any, expected: Any) -> float:
    found, expected = np.float64(found), np.float64(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(about: dict[str, Any], updates: Any, reference: Any, prefix: str = "") -> None:
    noted = about["update_difference_float32_roots_against_float64_roots"]
    for step, name in product(ABOUT["snapshots"], NAMES):
        off = worst_difference(
            updates[name][step - 1], reference[f"{prefix}step{step}/updates/{name}"]
        )
        assert off <= max(10 * noted[f"step{step}"], 1e-6), (step, name)


@pytest.mark.parametrize("combo", COMBOS)
def test_updates_are_the_reference_s(combo: str) -> None:
    updates, params, _ = in_float32(combo)
    reference = load_file(FOLDER / COMBOS[combo]["file"])
    check(COMBOS[combo], updates, reference)
    noted = COMBOS[combo]["update_difference_float32_roots_against_float64_roots"].values()
    for step, name in product(ABOUT["snapshots"], NAMES):
        off = worst_difference(params[name][step - 1], reference[f"step{step}/params/{name}"])
        assert off <= 10 * max(noted), (step, name)


@pytest.mark.parametrize("combo", MORE)
def test_settings_that_the_reference_does_not_vary_mean_the_same(combo: str) -> None:
    updates, *_ = trajectory(MORE[combo]["settings"])
    check(MORE[combo], updates, load_file(FOLDER / "more.safetensors"), f"{combo}/")


def test_roots_in_float64_give_the_reference_s_updates_too() -> None:
    about = COMBOS["rmsprop_normalized_merged_to_vectors"]
    with jax.enable_x64(True):
        updates, _, state = trajectory(about["settings"], root_dtype=jnp.float64)
    check(about, updates, load_file(FOLDER / about["file"]), "x64/")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"int32", "float32"}


def matrices(tree: Any, name: str, shape: tuple[int, ...], block: int) -> list[np.ndarray]:
    """A parameter's matrices in the reference's order: block by block in row-major order, and for
    each block by dimension."""
    kinds, rest = tree[name], [range(-(-size // block)) for size in shape]
    found = []
    for where in product(*rest):
        edges = [(i + 1) * block > size for i, size in zip(where, shape, strict=True)]
        # Kinds: a dimension has a whole and an edge kind only where it has both.
        kind, job = 0, 0
        for i, edge, size in zip(where, edges, shape, strict=True):
            both = size > block and size % block > 0
            kind = kind * (1 + both) + (edge and both)
            whole = max(size // block, 1)
            job = job * (1 if edge else whole) + (0 if edge else i)
        found += [np.asarray(stack[job]) for stack in kinds[kind]]
    return found


@pytest.mark.parametrize(
    ("combo", "block", "shapes"),
    [
        ("rmsprop_normalized", 128, {"a": (8, 6), "b": (20, 12), "c": (7,), "d": (12, 10)}),
        ("rmsprop_normalized_merged_to_vectors", 8, {"a": (48,), "b": (240,), "d": (120,)}),
    ],
)
def test_statistics_and_preconditioners_are_the_reference_s(
    combo: str, block: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    state = in_float32(combo)[2]
    reference = load_file(FOLDER / COMBOS[combo]["file"])
    for name, shape in shapes.items():
        for kind, key, rtol in KINDS:
            for i, matrix in enumerate(matrices(getattr(state, kind), name, shape, block)):
                expected = reference[f"final_state/{name}/{i}/{key}"]
                assert worst_difference(matrix, expected) < rtol, (name, i, kind)


def test_delayed_roots_leave_the_reference_s_state() -> None:
    combo = "rmsprop_normalized_sharded"
    state: ShampooState = in_float32(combo)[2]
    reference = load_file(FOLDER / COMBOS[combo]["file"])
    shapes = {"a": (8, 6), "b": (20, 12), "c": (7,), "d": (12, 10)}
    for kind, _, rtol in KINDS:
        tree = getattr(state, kind)
        found = [m for name, shape in shapes.items() for m in matrices(tree, name, shape, 8)]
        expected = reference[f"final_state/global_{kind}"]
        assert len(found) == len(expected) == 23
        for matrix, padded in zip(found, expected, strict=True):
            size = len(matrix)
            assert worst_difference(matrix, padded[:size, :size]) < rtol


def test_a_schedule_and_decoupled_decay_follow_their_definition() -> None:
    """Without momentum and preconditioners Shampoo equals its graft, which is the gradient here."""
    plain = SETTINGS | {"graft_type": "SGD", "beta1": 0.0, "skip_preconditioning_rank_lt": 4}
    decoupled = {"weight_decay": 0.1, "decoupled_weight_decay": True}
    rate = {"learning_rate": lambda step: 0.1 / (1 + step)}
    updates, after, _ = trajectory(plain | decoupled | rate, steps=3)
    for step, name in product(range(3), NAMES):
        before = after[name][step - 1] if step else PROBLEM[f"params/{name}"]
        now = 0.1 / (1 + step)
        expected = -now * (PROBLEM[f"grads/{name}"][step] + now * 0.1 * before)
        np.testing.assert_allclose(updates[name][step], expected, rtol=1e-5, atol=1e-7)


def test_a_rate_inside_the_momentum_gives_the_same_when_constant() -> None:
    outside, *_ = in_float32("rmsprop_normalized")
    inside, *_ = trajectory(SETTINGS | {"decoupled_learning_rate": False}, steps=8)
    for name in NAMES:
        assert worst_difference(outside[name][:8], inside[name]) < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_sise": 8}, "no setting block_sise; did you mean block_size?"),
        ({"zebra": 8}, "no setting zebra; there are learning_rate, block_size, beta1"),
        ({"graft_type": "adam"}, "graft_type 'adam' is not one of sgd, sqrt_n"),
        ({"lobpcg_topk_precondition": 1}, "lobpcg_topk_precondition is not offered; use 0"),
    ],
)
def test_unknown_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        shampoo_from_reference_settings(**SETTINGS | settings)
    with pytest.raises(ValueError, match="needs the setting block_size"):
        shampoo_from_reference_settings(learning_rate=0.1)

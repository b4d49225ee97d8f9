"""Shampoo: roots, blocks, stacks of layers, and roots shared by devices."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from optim.config import OptimConfig, ShampooConfig
from optim.optimizers import make_optimizer
from optim.shampoo import shampoo
from optim.shampoo.blocks import join_blocks, merge_shape, split_blocks
from optim.shampoo.preconditioners import make_plan
from optim.shampoo.roots import inverse_root, largest_eigenvalue
from optim.spread import over_axis, spread_jobs

CONFIG = ShampooConfig(block_size=4, merge_dims=6, roots_every=2, start_step=1)
DEVICES = 4


def normal(*shape: int, seed: int = 0) -> Array:
    return jnp.float32(np.random.default_rng([seed, *shape]).normal(size=shape))


STACK = {"run0": {"q": {"kernel": normal(3, 4, 4), "bias": normal(3, 3)}}, "head": normal(4, 4)}


def descend(optimizer: Any, params: Any, steps: int) -> tuple[Any, Any]:
    """The direction after `steps` steps with changing gradients, and the state."""

    def one(carry: Any, step: Array) -> tuple[Any, None]:
        slopes = jax.tree.map(lambda p: jnp.sin(p * (step + 1)), params)
        return optimizer.update(slopes, carry[1], params), None

    start = params, optimizer.init(params)
    return jax.lax.scan(one, start, jnp.arange(steps))[0]


def run(optimizer: Any, params: Any, steps: int = 5) -> tuple[Any, Any]:
    return jax.jit(lambda p: descend(optimizer, p, steps))(params)


def assert_close(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, 1e-7), found, expected)


@pytest.mark.parametrize("p", [1, 2, 6])
def test_a_root_is_that_of_the_eigenvalues(p: int) -> None:
    half = np.asarray(normal(9, 12))
    matrix = half @ half.T
    root, error = jax.jit(lambda matrix: inverse_root(matrix, p, ridge=1e-3))(matrix)
    values, vectors = np.linalg.eigh(np.float64(matrix))
    powers = (values + 1e-3 * values.max()) ** (-1 / p)
    np.testing.assert_allclose(root, vectors * powers @ vectors.T, rtol=1e-4, atol=1e-5)
    assert error < 1e-5
    assert jax.jit(largest_eigenvalue)(matrix) == pytest.approx(values.max(), rel=1e-4)


def test_a_root_of_a_number_is_exact() -> None:
    root, error = inverse_root(jnp.float32([[16.0]]), 4, ridge=0.0)
    assert (float(root[0, 0]), float(error)) == (0.5, 0.0)


def test_a_root_that_fails_leaves_the_one_before() -> None:
    optimizer = shampoo(replace(CONFIG, failure_threshold=0.0, roots_every=1))
    _, state = run(optimizer, {"head": {"kernel": normal(3, 2)}}, steps=2)
    for matrix in jax.tree.leaves(state.preconditioners):
        np.testing.assert_array_equal(matrix, np.eye(matrix.shape[-1])[None])
    poisoned = np.full((3, 3), np.nan, np.float32)
    assert not (jax.jit(inverse_root, static_argnums=1)(poisoned, 4)[1] < 0.1)


@pytest.mark.parametrize(
    ("shape", "limit", "merged"),
    [
        ((1, 2, 512, 1, 2048, 1, 3, 4), 1024, (1024, 2048, 12)),
        ((1, 2, 768, 1, 2048), 1024, (2, 768, 2048)),
        ((3, 4, 10), 4096, (120,)),
        ((1, 1), 8, (1,)),
        ((), 8, ()),
    ],
)
def test_shapes_merge_as_in_the_paper(
    shape: tuple[int, ...], limit: int, merged: tuple[int, ...]
) -> None:
    assert merge_shape(shape, limit) == merged


@pytest.mark.parametrize("shape", [(8, 6), (9,), (3, 10, 5)])
@pytest.mark.parametrize("block", [0, 4])
def test_joined_blocks_equal_the_array_before_the_split(shape: tuple[int, ...], block: int) -> None:
    x = normal(2, *shape)
    pieces = jax.jit(split_blocks, static_argnums=1)(x, block)
    assert sum(piece.size for piece in pieces) == x.size
    assert all(max(piece.shape[1:]) <= (block or max(shape)) for piece in pieces)
    joined = jax.jit(lambda pieces: join_blocks(pieces, shape, block))(pieces)
    np.testing.assert_array_equal(joined, x)


def test_a_block_is_preconditioned_as_a_matrix_of_its_own() -> None:
    whole = np.asarray(normal(8, 4))
    settings = replace(CONFIG, merge_dims=0, start_step=0)
    halves = {"0": jnp.asarray(whole[:4]), "1": jnp.asarray(whole[4:])}
    together, _ = jax.device_get(run(shampoo(settings), {"kernel": jnp.asarray(whole)}, steps=1))
    apart, _ = jax.device_get(run(shampoo(settings), halves, steps=1))
    for block, rows in (("0", slice(0, 4)), ("1", slice(4, 8))):
        ratio = (
            together["kernel"][rows] / apart[block]
        )  # the graft's norm is of the whole parameter
        np.testing.assert_allclose(ratio, np.full((4, 4), ratio[0, 0]), rtol=1e-4)


def test_embeddings_large_tables_and_single_numbers_have_no_preconditioner() -> None:
    plans = {
        name: make_plan(replace(CONFIG, max_dim=8), True, name, leaf)
        for name, leaf in {
            "text_embedding/tokens": normal(5, 5),
            "encoder/run0/q/kernel": normal(12, 5, 5),
            "head/kernel": normal(5, 9),
            "scale": normal(),
        }.items()
    }
    sided = {name: plan.preconditioned for name, plan in plans.items()}
    assert sided == {
        "text_embedding/tokens": 0,
        "encoder/run0/q/kernel": 2,
        "head/kernel": 0,
        "scale": 0,
    }


def test_one_sided_statistics_leave_out_the_outputs() -> None:
    optimizer = shampoo(replace(CONFIG, merge_dims=0, one_sided=True))
    _, state = run(optimizer, {"kernel": normal(3, 2)}, steps=2)
    assert [m.shape for m in jax.tree.leaves(state.statistics)] == [(1, 3, 3)]


def test_roots_are_computed_on_update_steps_only() -> None:
    optimizer = shampoo(CONFIG)
    params = {"kernel": normal(3, 4)}
    update = jax.jit(optimizer.update)
    state, seen = optimizer.init(params), []
    for _ in range(4):
        _, state = update(params, state, params)
        seen.append(np.asarray(jax.tree.leaves(state.preconditioners)[0]))
    assert (seen[0] == seen[1]).all()
    assert (seen[1] != seen[2]).any()
    assert (seen[2] == seen[3]).all()


def test_roots_dealt_to_devices_are_those_of_one_device() -> None:
    """Each device computes a share of the matrices and gets all of them."""
    assert len(jax.devices()) >= DEVICES
    params, config = STACK, OptimConfig(name="shampoo", shampoo=CONFIG)
    dealt = make_optimizer(config, over_axis("devices", DEVICES))
    mapped = jax.pmap(
        lambda params, _: descend(dealt, params, 3)[0],
        axis_name="devices",
        in_axes=(None, 0),
        devices=jax.devices()[:DEVICES],
    )
    found = jax.device_get(mapped(params, np.zeros(DEVICES, np.float32)))
    expected, _ = run(make_optimizer(config), params, 3)
    for device in range(DEVICES):
        assert_close(jax.tree.map(lambda x, d=device: x[d], found), expected, rtol=1e-5)


@pytest.mark.parametrize("jobs", [1, 4, 6])
def test_jobs_that_devices_do_not_divide_are_all_done_once(jobs: int) -> None:
    x = np.asarray(normal(jobs, 2))
    spread = over_axis("devices", DEVICES)

    def work(_: Array) -> tuple[Array, Array]:
        return spread_jobs(lambda row: (row * 2, row.sum()), jnp.asarray(x), spread)

    run_all = jax.jit(jax.vmap(work, axis_name="devices"))
    for double, total in zip(*jax.device_get(run_all(np.zeros(DEVICES))), strict=True):
        np.testing.assert_array_equal(double, x * 2)
        np.testing.assert_allclose(total, x.sum(1), rtol=1e-6)


def test_momentum_in_whole_numbers_is_close_and_small() -> None:
    exact, _ = run(shampoo(CONFIG), STACK)
    rounded, state = run(shampoo(replace(CONFIG, quantize_momentum=True)), STACK)
    kept = state.momentum["run0"]["q"]
    assert kept["kernel"].values.dtype == jnp.int8
    assert kept["kernel"].scale.shape == (3, 1, 4)
    assert kept["bias"].dtype == jnp.float32
    largest = np.abs(exact["run0"]["q"]["kernel"]).max()
    np.testing.assert_allclose(
        rounded["run0"]["q"]["kernel"], exact["run0"]["q"]["kernel"], atol=0.03 * float(largest)
    )


def test_a_setting_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="optim.shampoo.roots_every must be at least 1, not 0"):
        ShampooConfig(roots_every=0)
    with pytest.raises(ValueError, match="optim.shampoo.block_size cannot be negative, not -1"):
        ShampooConfig(block_size=-1)

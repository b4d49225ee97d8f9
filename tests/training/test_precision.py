"""The data type of stored weights, and the precision of products."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim.averaging import init_ema, make_ema
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from training.config import MatmulPrecision, ParamDtype, TrainingConfig
from training.update.precision import round_like, round_randomly, to_param_dtype
from training.update.spikes import init_guard
from training.update.state import TrainState
from training.update.step import StepParts, train_step

KEY = jax.random.key(0)
HALF = jnp.bfloat16
ROUND, ROUND_LIKE = jax.jit(round_randomly), jax.jit(round_like)
"""One program for each shape, not one for each operation."""


def init(key: jax.Array) -> dict[str, Any]:
    layers = {"kernel": jax.random.normal(key, (2, 4, 4)), "scale": jnp.ones((2, 4))}
    return {"decoder": {"run0": layers}, "head": {"kernel": jax.random.normal(key, (4, 3))}}


def loss(params: dict, batch: Any, keys: jax.Array, context: object) -> tuple[jax.Array, dict]:
    x = batch["x"].astype(HALF)
    for layer in range(2):
        own = jax.tree.map(lambda leaf: leaf[layer], params["decoder"]["run0"])  # noqa: B023
        x = jnp.tanh(x @ own["kernel"].astype(HALF)) * own["scale"].astype(HALF)[None]
    logits = x.astype(jnp.float32) @ params["head"]["kernel"].astype(jnp.float32)
    return jnp.square(logits - 1).mean(), {}


def make(
    settings: TrainingConfig, optimizer: optax.GradientTransformation | None = None
) -> tuple[Callable[..., Any], TrainState, dict[str, jax.Array]]:
    """An update with two micro-batches, the state before it, and its batch."""
    optimizer = optimizer or make_optimizer(OptimConfig())
    step = partial(
        train_step,
        StepParts(
            loss,
            optimizer,
            lambda step: jnp.float32(1e-2),
            micro_batches=lambda rows: 2,
            settings=settings,
            update_ema=make_ema(0.9),
        ),
    )
    create = partial(TrainState.create, init, optimizer, 0, settings.compute_dtype)
    create = partial(create, param_dtype=settings.param_dtype, init_ema=init_ema)
    state = jax.jit(create)()._replace(guard=init_guard(settings))
    rows = {"x": jnp.ones((8, 4)), "example_index": jnp.arange(8, dtype=jnp.int32)}
    return step, state, rows


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.dtype.name, tree)


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_only_matrices_are_narrow_and_an_update_leaves_all_dtypes(compute: Any) -> None:
    settings = TrainingConfig(compute_dtype=compute, param_dtype="bfloat16")
    seen: list[Any] = []

    def record(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        seen.extend([grads, params])
        return grads, state

    spy = optax.GradientTransformation(lambda params: optax.EmptyState(), record)
    step, state, rows = make(settings, optax.chain(spy, make_optimizer(OptimConfig())))
    assert dtypes(state.params) == {
        "decoder": {"run0": {"kernel": "bfloat16", "scale": "float32"}},
        "head": {"kernel": "bfloat16"},
    }
    new, metrics = jax.jit(step)(state, rows)
    assert dtypes(new) == dtypes(state)
    assert {jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(seen)} == {"float32"}
    kept = jax.tree.leaves((new.opt_state, new.ema, new.loss_scale, new.guard, metrics))
    assert not [leaf for leaf in kept if leaf.dtype == HALF]
    assert (new.params["head"]["kernel"] != state.params["head"]["kernel"]).any()


def test_rounding_takes_one_of_both_neighbours_and_is_right_on_average() -> None:
    x = np.array([1.001, -1.001, 3.14159, 1e-3, -7e20], np.float32)
    below = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = (below.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    drawn = ROUND(np.tile(x, (20_000, 1)), KEY)
    assert drawn.dtype == HALF
    found = np.asarray(drawn, np.float64)
    assert ((found == np.asarray(below)) | (found == np.asarray(above))).all()
    gap = np.abs(np.asarray(above, np.float64) - np.asarray(below, np.float64))
    np.testing.assert_allclose((found.mean(0) - np.asarray(x)) / gap, 0.0, atol=0.02)


def test_numbers_that_need_no_rounding_stay() -> None:
    x = np.array([1.0, -0.5, 0.0, np.inf, -np.inf, np.nan, 3.015625], np.float32)
    np.testing.assert_array_equal(np.asarray(ROUND(x, KEY), np.float32), x)

    @jax.jit
    def narrow_and_round() -> tuple[Any, Any]:
        params = to_param_dtype(init(KEY), "bfloat16")
        wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return round_like(wide, params, KEY), params

    jax.tree.map(np.testing.assert_array_equal, *narrow_and_round())


def test_updates_too_small_for_a_weight_add_up() -> None:
    kept = jnp.asarray(np.ones(1000), HALF)
    for n in range(100):
        exact = np.asarray(kept, np.float32) + np.float32(2e-4)  # a fortieth of its rounding step
        kept = ROUND_LIKE(exact, kept, jax.random.fold_in(KEY, n))
    assert np.asarray(kept, np.float32).mean() == pytest.approx(1.02, abs=0.003)
    assert (jnp.ones(1, HALF) + HALF(2e-4) == 1).all()


def text_of(precision: MatmulPrecision, param_dtype: ParamDtype = "float32") -> str:
    settings = TrainingConfig(matmul_precision=precision, param_dtype=param_dtype)
    step, state, rows = make(settings)
    return jax.jit(step).lower(state, rows).as_text()


@pytest.mark.parametrize(("precision", "word"), [("high", "HIGH"), ("highest", "HIGHEST")])
def test_the_precision_of_products_reaches_every_one_of_them(
    precision: MatmulPrecision, word: str
) -> None:
    products = [line for line in text_of(precision).splitlines() if "dot_general" in line]
    assert len(products) >= 6  # three forward, and their gradients
    assert all(f"precision = [{word}, {word}]" in line for line in products)


def test_left_alone_no_product_says_how_exact_it_is() -> None:
    assert not re.search(r"precision = \[HIGH", text_of("default"))

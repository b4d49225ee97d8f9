"""Optimizers, accumulation and loss scaling equal their definitions."""

from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from optim.accumulate import accumulate
from optim.config import AdafactorConfig, OptimConfig, Optimizer, ShampooConfig
from optim.loss_scale import LossScale, adjust, init_loss_scale
from optim.optimizers import _sides, is_decayed, make_optimizer
from optim.schedules import make_schedule

CONFIG = OptimConfig(learning_rate=0.1, warmup_steps=10, decay_fraction=0.5)
RATES = {"adafactor": 0.3, "palm_adafactor": 0.3, "sgd": 0.05, "muon": 0.3}


def normal(*shape: int, seed: int = 0) -> Array:
    return jnp.float32(np.random.default_rng([seed, *shape]).normal(size=shape))


PARAMS: dict[str, Any] = {
    "text_embedding": {"tokens": normal(9, 5)},
    "encoder": {"run0": {"q": {"kernel": normal(3, 6, 5), "bias": normal(3, 5)}}},
    "head": {"kernel": normal(5, 7)},
    "scale": normal(),
}


def config_of(name: Optimizer) -> OptimConfig:
    shampoo = ShampooConfig(block_size=5, merge_dims=0, roots_every=3)
    return OptimConfig(name=name, shampoo=shampoo, adafactor=AdafactorConfig(factored_from=4))


def after_steps(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """The direction after three steps with changing gradients, as NumPy arrays."""
    update = optax.with_extra_args_support(optimizer).update

    def one(carry: Any, step: Array) -> tuple[Any, None]:
        slopes = jax.tree.map(lambda p: jnp.sin(p * (step + 1)), params)
        return update(slopes, carry[1], params, learning_rate=0.1), None

    run = jax.jit(lambda start: jax.lax.scan(one, start, jnp.arange(3)))
    return jax.device_get(run((params, optimizer.init(params)))[0][0])


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimizer_finds_the_bottom_of_a_bowl(name: Optimizer) -> None:
    """It starts from parameters of every kind: a stack, an embedding, a kernel, a bias, a
    scalar."""
    optimizer = make_optimizer(config_of(name))
    goal = jax.tree.map(lambda p: np.asarray(p) + np.float32(1), PARAMS)
    schedule = make_schedule(OptimConfig(learning_rate=RATES.get(name, 0.1)), 150)

    def height(params: Any) -> Array:
        return optax.tree.norm(jax.tree.map(jnp.subtract, params, goal), squared=True)

    def one(carry: Any, step: Array) -> tuple[Any, None]:
        params, state = carry
        rate = schedule(step)
        updates, state = optimizer.update(
            jax.grad(height)(params), state, params, learning_rate=rate
        )
        return (optax.tree.add_scale(params, -rate, updates), state), None

    @jax.jit
    def descend(params: Any) -> Array:
        start = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(one, start, jnp.arange(150))
        return height(params)

    sizes = jax.tree.leaves(jax.tree.map(np.size, PARAMS))
    assert descend(PARAMS) < 0.01 * sum(sizes)  # each number is 1 away at first


BY_ELEMENT = {"adam", "adamw", "nadamw", "lion", "schedule_free"}
"""Optimizers that know no shapes; sgd stands for them."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in BY_ELEMENT else ())
        for name in get_args(Optimizer)
    ],
)
def test_a_layer_of_a_stack_is_treated_as_if_it_stood_alone(name: Optimizer) -> None:
    config = replace(config_of(name), clip_norm=0.0)
    layers = [{"kernel": normal(6, 5, seed=i), "bias": normal(5, seed=i)} for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *layers)
    found = after_steps(make_optimizer(config), {"run0": {"q": stacked}})["run0"]["q"]
    apart = after_steps(make_optimizer(config), {f"q{i}": one for i, one in enumerate(layers)})
    for i in range(3):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=5e-5, atol=1e-5),
            found,
            apart[f"q{i}"],
        )


@pytest.mark.parametrize(
    ("name", "options", "own"),
    [
        ("sgd", {"nesterov": True}, optax.sgd(-1.0, momentum=0.9, nesterov=True)),
        ("adam", {}, optax.adam(-1.0, 0.9, 0.98)),
        ("adamw", {"weight_decay": 0.1}, optax.adamw(-1.0, 0.9, 0.98, weight_decay=0.1)),
        ("nadamw", {"weight_decay": 0.1}, optax.nadamw(-1.0, 0.9, 0.98, weight_decay=0.1)),
        ("lion", {}, optax.lion(-1.0, 0.9, 0.98, weight_decay=0.0)),
        (
            "adafactor",
            {"adafactor": AdafactorConfig(factored_from=4)},
            optax.adafactor(-1.0, min_dim_size_to_factor=4, momentum=0.9),
        ),
        (
            "palm_adafactor",
            {},
            optax.adafactor(-1.0, factored=False, clipping_threshold=None, momentum=0.9),
        ),
        ("muon", {}, optax.contrib.muon(-1.0, beta=0.9, adam_b2=0.98, consistent_rms=0.2)),
    ],
)
def test_a_direction_is_optax_s_own_update(
    name: Optimizer, options: dict[str, Any], own: optax.GradientTransformation
) -> None:
    params = {"q": {"kernel": normal(6, 5)}}
    config = OptimConfig(name=name, clip_norm=0.0, beta2=0.98, **options)
    found, expected = after_steps(make_optimizer(config), params), after_steps(own, params)
    np.testing.assert_allclose(found["q"]["kernel"], expected["q"]["kernel"], rtol=1e-6, atol=1e-7)


def test_palm_s_adafactor_matches_its_definition() -> None:
    optimizer = make_optimizer(
        OptimConfig(name="palm_adafactor", clip_norm=0.0, weight_decay=1.0, beta1=0.9)
    )
    params = {"q": {"kernel": normal(3, 2)}}
    state, kernel = optimizer.init(params), np.float64(params["q"]["kernel"])
    update = jax.jit(optimizer.update)
    mean = square = np.zeros((3, 2))
    for k in range(1, 5):
        gradient = np.float64(normal(3, 2, seed=k))
        decay = 1 - k**-0.8
        square = decay * square + (1 - decay) * gradient**2
        mean = 0.9 * mean + 0.1 * gradient / np.sqrt(square) * np.sqrt((kernel**2).mean())
        gradients = {"q": {"kernel": jnp.float32(gradient)}}
        updates, state = update(gradients, state, params, learning_rate=0.01 / k)
        expected = mean + 0.01 / k * kernel
        np.testing.assert_allclose(updates["q"]["kernel"], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="needs update"):
        optimizer.update(params, state, params)


def test_muon_s_remainder_gets_adam_and_its_kernels_optax_s_muon() -> None:
    found = after_steps(make_optimizer(OptimConfig(name="muon", clip_norm=0.0)), PARAMS)
    adam = after_steps(make_optimizer(OptimConfig(name="adam", clip_norm=0.0)), PARAMS)
    for name in ("text_embedding", "head", "scale"):
        jax.tree.map(np.testing.assert_array_equal, found[name], adam[name])
    rest = found["encoder"]["run0"]["q"], adam["encoder"]["run0"]["q"]
    np.testing.assert_array_equal(rest[0]["bias"], rest[1]["bias"])
    assert not np.allclose(rest[0]["kernel"], rest[1]["kernel"])


def test_muon_trains_the_kernels_between_embedding_and_head() -> None:
    sides = _sides(PARAMS | {"conv": {"kernel": normal(3, 3, 4, 5)}})
    assert sides["text_embedding"]["tokens"] is sides["head"]["kernel"] is sides["scale"] is None
    assert sides["encoder"]["run0"]["q"]["kernel"] == ((1,), (2,))
    assert sides["encoder"]["run0"]["q"]["bias"] is None
    assert sides["conv"]["kernel"] == ((0, 1, 2), (3,))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_a_state_is_a_plain_tree_of_arrays(name: Optimizer) -> None:
    state = make_optimizer(config_of(name)).init(PARAMS)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    assert all(isinstance(leaf, jax.Array) for _, leaf in leaves)
    by_name = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    assert len(by_name) == len(leaves)
    again = jax.tree.unflatten(jax.tree.structure(state), list(by_name.values()))
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay 0.1 is not for adam; use .*adamw"):
        OptimConfig(name="adam", weight_decay=0.1)
    with pytest.raises(ValueError, match="nesterov is for sgd and shampoo, not adamw; use nadamw"):
        OptimConfig(nesterov=True)


def test_adamw_matches_its_definition() -> None:
    config = OptimConfig(clip_norm=0.0, weight_decay=0.1, beta1=0.9, beta2=0.98)
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    params = {"dense": {"kernel": jnp.float32(rng.normal(size=(3, 2)))}}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    mean = square = np.zeros((3, 2))
    for n in range(1, 6):
        gradient = rng.normal(size=(3, 2))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * gradient**2
        kernel = np.array(params["dense"]["kernel"], np.float64)
        expected = mean / (1 - 0.9**n) / (np.sqrt(square / (1 - 0.98**n)) + 1e-8) + 0.1 * kernel
        updates, state = update({"dense": {"kernel": jnp.float32(gradient)}}, state, params)
        np.testing.assert_allclose(updates["dense"]["kernel"], expected, rtol=1e-4, atol=1e-5)
        moved = np.asarray(params["dense"]["kernel"]) - 0.01 * np.asarray(
            updates["dense"]["kernel"]
        )
        params = {"dense": {"kernel": jnp.float32(moved)}}


def test_sgd_is_momentum_of_clipped_gradients() -> None:
    optimizer = make_optimizer(OptimConfig(name="sgd", clip_norm=1.0, beta1=0.5))
    params = {"kernel": jnp.zeros(2)}
    state = optimizer.init(params)
    large = {"kernel": jnp.float32([3.0, 4.0])}  # of norm 5
    first, state = optimizer.update(large, state, params)
    second, _ = optimizer.update(large, state, params)
    np.testing.assert_allclose(first["kernel"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(second["kernel"], [0.9, 1.2], rtol=1e-6)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    leaf = jnp.ones(1)
    params = {"q": {"kernel": leaf, "bias": leaf}, "norm": {"scale": leaf}, "tokens": leaf}
    decayed = {"q": {"kernel": True, "bias": False}, "norm": {"scale": False}, "tokens": False}
    assert is_decayed(params) == decayed


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_average_to_the_whole_batch(parts: int) -> None:
    x = jnp.float32(np.random.default_rng(0).normal(size=(8, 3)))
    mean = lambda part: {"mean": jnp.square(part).mean(0)}  # noqa: E731
    found = jax.jit(lambda x: accumulate(mean, x, parts))(x)
    np.testing.assert_allclose(found["mean"], np.square(x).mean(0), rtol=1e-6)


def test_the_loss_scale_halves_on_overflow_and_doubles_after_a_window() -> None:
    scale = adjust(init_loss_scale(8.0), jnp.bool_(False), 5, 1.0)
    assert (float(scale.scale), int(scale.good_steps)) == (4.0, 0)
    for _ in range(4):
        scale = adjust(scale, jnp.bool_(True), 5, 1.0)
    assert float(scale.scale) == 4.0
    assert float(adjust(scale, jnp.bool_(True), 5, 1.0).scale) == 8.0
    at_floor = adjust(LossScale(jnp.float32(2.0), jnp.int32(0)), jnp.bool_(False), 5, 2.0)
    assert float(at_floor.scale) == 2.0


def test_a_fraction_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_fraction 2"):
        replace(CONFIG, decay_fraction=2.0)

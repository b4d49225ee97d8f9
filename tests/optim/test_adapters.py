"""Low-rank adapters: W + (alpha / rank) · a · b, trained while W keeps its bits."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.trees import map_named
from model import transformer
from model.config import ModelConfig
from model.loss import make_loss
from model.loss_config import LossConfig
from optim.adapters import init_adapters, merge, split
from optim.averaging import init_ema, make_ema
from optim.config import ADAPTERS, AdapterConfig, OptimConfig, Optimizer
from optim.freezing import make_is_trained
from optim.optimizers import make_optimizer
from starting import adapted
from tests.spread import spread_step
from tests.training.test_step import batch_of
from training.config import ParallelConfig, TrainingConfig
from training.devices import in_step, parallel, placing
from training.devices.devices import find_devices
from training.update.state import TrainState

RANK = AdapterConfig(rank=3, alpha=5.0)
OPTIM = OptimConfig(learning_rate=0.01, warmup_steps=0, weight_decay=0.1, adapters=RANK)
STEPS = 4


def shaken(params: Any) -> Any:
    """Parameters whose adapters' second matrices are no longer zero."""
    base, own = split(params)
    rng = np.random.default_rng(0)
    noise = lambda leaf: leaf + np.asarray(rng.normal(size=leaf.shape), np.float32)  # noqa: E731
    return {**base, **jax.tree.map(noise, own)}


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    map_named(lambda name, leaf: found.update({name: leaf.shape}), tree)
    return found


@cache
def trained(config: ModelConfig, optim: OptimConfig, places: ParallelConfig) -> list[TrainState]:
    """The states before and after some updates. A loop over the layers compiles faster."""
    config = replace(config, unroll=1)
    devices = find_devices(places)
    model = adapted.build(config, optim.adapters)
    empty = jnp.zeros((1, config.text_length), jnp.int32)
    optimizer = make_optimizer(optim)
    step = spread_step(
        devices,
        make_loss(model, (empty, empty == 0), config.image_vocab_size, LossConfig()),
        make_optimizer(optim, in_step.make_spread(devices)),
        lambda step: jnp.float32(optim.learning_rate),
        settings=TrainingConfig(on_spike="off"),
        update_ema=make_ema(0.9),
        is_trained=make_is_trained(optim.freeze, optim.trained),
    )
    params = model.init(jax.random.key(0))  # outside: a program would take seconds to compile
    create = lambda: TrainState.create(lambda key: params, optimizer, 0, init_ema=init_ema)  # noqa: E731
    state, run = placing.create(create, devices), parallel.compile_step(step, devices)
    found = [jax.device_get(state)]
    for _ in range(STEPS):
        state, _ = run(state, batch_of(config))
    return [*found, jax.device_get(state)]


SOME = replace(RANK, kernels=("encoder/*mlp/*", "decoder/*cross_attention/*", "head/*"))
"""Adapters of some kernels, so that the tests of updates share a program."""


def test_the_merged_kernel_is_the_sum_that_the_paper_has(tiny: ModelConfig) -> None:
    model = adapted.build(tiny, replace(RANK, kernels=("decoder/*", "head/kernel")))
    params = shaken(model.init(jax.random.key(0)))
    base, own = split(params)
    found = merge(params, RANK)
    assert shapes_of(found) == shapes_of(base)

    def expect(name: str, kernel: Any, made: Any) -> None:
        pair: Any = own[ADAPTERS]
        for part in name.split("/"):
            pair = pair.get(part, {}) if isinstance(pair, dict) else {}
        if not pair:
            np.testing.assert_array_equal(kernel, made)
            return
        wide = [np.asarray(leaf, np.float64) for leaf in (kernel, pair["a"], pair["b"])]
        layers = [wide] if kernel.ndim == 2 else zip(*wide, strict=True)
        expected = [w + 5.0 / 3 * (a @ b) for w, a, b in layers]
        np.testing.assert_allclose(np.reshape(expected, made.shape), made, rtol=1e-5, atol=1e-6)

    map_named(expect, base, found)
    assert set(own[ADAPTERS]) == {"decoder", "head"}
    decoder = own[ADAPTERS]["decoder"]["run0"]
    assert decoder["mlp"]["up"]["kernel"]["a"].shape == (2, tiny.dim, 3)
    assert decoder["mlp"]["up"]["kernel"]["b"].shape == (2, 3, tiny.mlp_dim)


def test_before_the_first_update_they_change_no_bit(tiny: ModelConfig) -> None:
    model, plain = adapted.build(tiny, RANK), transformer.build(tiny)
    params = model.init(jax.random.key(3))
    base, _ = split(params)
    jax.tree.map(np.testing.assert_array_equal, base, plain.init(jax.random.key(3)))
    jax.tree.map(np.testing.assert_array_equal, base, merge(params, RANK))
    batch = batch_of(tiny)
    inputs = batch["text_tokens"], batch["text_mask"], batch["image_tokens"]
    np.testing.assert_array_equal(
        jax.jit(model.apply)(params, *inputs), jax.jit(plain.apply)(base, *inputs)
    )


def test_all_functions_of_the_model_see_the_sum(tiny: ModelConfig) -> None:
    model, plain = adapted.build(tiny, RANK), transformer.build(tiny)
    params = shaken(model.init(jax.random.key(0)))
    merged = merge(params, RANK)
    batch = batch_of(tiny)
    text, mask = jnp.asarray(batch["text_tokens"]), jnp.asarray(batch["text_mask"])
    states = plain.encode(merged, text, mask)
    np.testing.assert_array_equal(model.encode(params, text, mask), states)
    jax.tree.map(np.testing.assert_array_equal, model.lay_out(params), plain.lay_out(merged))
    caches = [m.init_cache(p, states, mask, 2) for m, p in ((model, params), (plain, merged))]
    tokens = jnp.zeros((len(text), 1), jnp.int32)
    own, expected = (
        m.decoder(p)(tokens, 0, cache)[0]
        for (m, p), cache in zip(((model, params), (plain, merged)), caches, strict=True)
    )
    np.testing.assert_array_equal(own, expected)
    assert shapes_of(model.shapes) == shapes_of(params)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "shampoo"])
def test_only_they_have_optimizer_state(tiny: ModelConfig, name: Optimizer) -> None:
    params = adapted.build(tiny, SOME).shapes
    state = jax.eval_shape(make_optimizer(replace(OPTIM, name=name, adapters=SOME)).init, params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    own = [name for name in names if ADAPTERS in name]
    assert own
    assert not [name for name in names if "kernel" in name and name not in own]


@pytest.mark.parametrize(
    "name",
    ["adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("muon", "adafactor", "shampoo"))],
)
def test_the_base_keeps_its_bits(tiny: ModelConfig, name: Optimizer) -> None:
    optim = replace(OPTIM, name=name, clip_norm=0.0, adapters=SOME)
    before, after = trained(tiny, optim, ParallelConfig(devices=1))
    for old, new in ((before.params, after.params), (before.ema, after.ema)):
        (base, own), (base_now, own_now) = split(old), split(new)
        jax.tree.map(np.testing.assert_array_equal, base, base_now)
        same = jax.tree.map(np.array_equal, own, own_now)
        assert not any(jax.tree.leaves(same))


def test_gradient_and_state_have_the_size_of_the_adapters(tiny: ModelConfig) -> None:
    params = adapted.build(tiny, RANK).init(jax.random.key(0))
    own = sum(leaf.size for leaf in jax.tree.leaves(split(params)[1]))
    state = make_optimizer(replace(OPTIM, name="adam", weight_decay=0.0)).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * own


@pytest.mark.parametrize("is_independent", [False, True])
def test_weight_decay_reaches_them(tiny: ModelConfig, is_independent: bool) -> None:
    optim = replace(OPTIM, independent_decay=is_independent)
    params = shaken(adapted.build(tiny, RANK).init(jax.random.key(0)))
    optimizer = make_optimizer(optim)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    decay = optim.weight_decay / (optim.learning_rate if is_independent else 1.0)
    (_, own), (base_updates, own_updates) = split(params), split(updates)
    expected = jax.tree.map(lambda leaf: decay * leaf, own)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), own_updates, expected)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(base_updates))


def test_what_is_trained_is_they_and_what_is_named(tiny: ModelConfig) -> None:
    optim = replace(OPTIM, train_only=("text_embedding/tokens",))
    names = set(shapes_of(adapted.build(tiny, RANK).shapes))
    is_trained = make_is_trained(optim.freeze, optim.trained)
    assert is_trained is not None
    own = {name for name in names if name.startswith(f"{ADAPTERS}/")}
    assert own
    assert set(filter(is_trained, names)) == {*own, "text_embedding/tokens"}


# The test above says what is trained; test_freezing.py, that the rest keeps its bits.
@pytest.mark.slow
def test_more_of_the_base_is_trained_beside_them_where_it_is_named(tiny: ModelConfig) -> None:
    optim = replace(OPTIM, train_only=("text_embedding/tokens",))
    before, after = trained(tiny, optim, ParallelConfig(devices=1))
    old, new = split(before.params)[0], split(after.params)[0]
    moved: list[str] = []
    map_named(lambda n, a, b: moved.append(n) if not np.array_equal(a, b) else None, old, new)
    assert moved == ["text_embedding/tokens"]


@pytest.mark.parametrize(
    "places",
    [
        {"mode": "mesh", "fsdp": 2, "tensor": 2},
        pytest.param({"mode": "pmap"}, marks=pytest.mark.slow),
    ],
)
def test_they_are_the_same_on_any_devices(tiny: ModelConfig, places: dict[str, Any]) -> None:
    optim = replace(OPTIM, clip_norm=0.0, adapters=SOME)
    _, alone = trained(tiny, optim, ParallelConfig(devices=1))
    _, spread = trained(tiny, optim, ParallelConfig(devices=4, **places))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone.params, spread.params
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kernels": ("decoder/*atention/*",)}, "matches none of .* kernels; the nearest are deco"),
        ({"kernels": ("*bias",)}, r"optim.adapters.kernels '\*bias' matches none"),
        ({"rank": 17}, "rank 17 is more than the kernel .* has, 16 × 16; take at most 16"),
    ],
)
def test_adapters_that_fit_no_kernel_are_refused_by_name(
    tiny: ModelConfig, given: dict[str, Any], message: str
) -> None:
    params = transformer.build(tiny).init(jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        init_adapters(jax.random.key(0), params, replace(RANK, **given))


def test_settings_that_cannot_be_are_refused() -> None:
    for given in ({"rank": -1}, {"alpha": 0.0}, {"kernels": ()}):
        with pytest.raises(ValueError, match="optim.adapters"):
            replace(RANK, **given)

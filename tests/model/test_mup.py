"""μP's coordinate check: training changes the logits by the same amount at every width."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config import Config
from model import transformer
from model.config import ModelConfig
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.tiny import TINY

BASE, WIDE, RATE, STEPS = 16, 128, 0.01, 4


def sized(dim: int, base_dim: int) -> ModelConfig:
    return replace(TINY, dim=dim, mlp_dim=2 * dim, base_dim=base_dim)


@cache
def moved(dim: int, base_dim: int) -> tuple[float, float]:
    """Root mean square of the logits at the start, and of their change by Adam."""
    config = sized(dim, base_dim)
    model = transformer.build(config)
    rates = [("matrices", 1 / config.width_ratio)]
    optim = OptimConfig(name="adam", clip_norm=0.0)
    optimizer = make_optimizer(optim, rates=rates)
    rng = np.random.default_rng(0)
    text, tokens = rng.integers(0, 32, (4, 6)), rng.integers(0, 20, (4, 9))
    mask = jnp.ones((4, 6), bool)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        inputs = np.pad(tokens, ((0, 0), (1, 0)), constant_values=config.start_token)[:, :-1]
        logits = model.apply(params, jnp.int32(text), mask, jnp.int32(inputs))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.int32(tokens)[..., None], -1)
        return -chosen.mean(), logits

    @jax.jit
    def update(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        grads, logits = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, u: p - RATE * u, params, updates), state, logits

    params = model.init(jax.random.key(0))  # a program of its own would take a second to compile
    state, seen = jax.jit(optimizer.init)(params), []
    for _ in range(STEPS + 1):
        params, state, logits = update(params, state)
        seen.append(logits)
    first, last = seen[0], seen[-1]
    size = lambda x: float(jnp.sqrt(jnp.square(x).mean()))  # noqa: E731
    return size(first), size(last - first)


def test_training_moves_the_logits_as_far_in_a_wide_model_and_without_it_further() -> None:
    """At eight times the width the factor is near 1 with μP, and several without it."""
    base, wide, plain = moved(BASE, BASE), moved(WIDE, BASE), moved(WIDE, 0)
    assert 0.5 < wide[1] / base[1] < 1.5
    assert plain[1] / base[1] > 2.5
    assert wide[0] <= 1.5 * base[0]  # nor do they grow with the width at the start


def test_at_the_base_width_it_changes_nothing() -> None:
    assert moved(BASE, BASE) == moved(BASE, 0)


def test_an_optimizer_that_it_is_not_for_is_refused() -> None:
    with pytest.raises(ValueError, match="base_dim 16 is for adam, .*, not muon"):
        Config(model=sized(32, 16), optim=OptimConfig(name="muon"))

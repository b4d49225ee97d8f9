"""Factors of the learning rate by path, and weight decay that does not follow the rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig
from optim.optimizers import make_optimizer

PARAMS = {
    "text_embedding": {
        "tokens": np.ones((4, 3), np.float32),
        "norm": {"scale": np.ones(3, np.float32)},
    },
    "encoder": {
        "run0": {
            "q": {"kernel": np.ones((2, 3, 3), np.float32), "bias": np.ones((2, 3), np.float32)}
        }
    },
    "encoder_norm": {"scale": np.ones(3, np.float32)},
    "head": {"kernel": np.ones((3, 4), np.float32)},
}
GRADS = jax.tree.map(lambda p: np.full_like(p, 0.5), PARAMS)
PLAIN = {"clip_norm": 0.0, "beta1": 0.0}


def first_direction(**settings: object) -> dict:
    optimizer = make_optimizer(OptimConfig(**{**PLAIN, **settings}))  # type: ignore[arg-type]
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS, learning_rate=0.5)[0]


def test_each_group_and_pattern_has_its_factor_and_the_first_one_counts() -> None:
    rates = ("embeddings:2", "head:3", "*q/bias:7", "matrices:4", "norms:5", "*:6")
    found, plain = first_direction(rates=rates), first_direction()
    factors = jax.tree.map(lambda a, b: float((a / b).mean()), found, plain)
    assert factors == {
        "text_embedding": {"tokens": 2, "norm": {"scale": 5}},
        "encoder": {"run0": {"q": {"kernel": 4, "bias": 7}}},
        "encoder_norm": {"scale": 5},
        "head": {"kernel": 3},
    }


def test_decay_follows_the_factor_unless_it_is_independent() -> None:
    """The decay is 0.1 · parameter · factor, or, if independent, 0.1 / highest rate · parameter."""
    settings = {"name": "sgd", "learning_rate": 0.25, "weight_decay": 0.1, "rates": ("head:3",)}
    bound = first_direction(**settings)
    free = first_direction(**settings, independent_decay=True)
    np.testing.assert_allclose(bound["head"]["kernel"], 3 * (0.5 + 0.1), rtol=1e-6)
    np.testing.assert_allclose(free["head"]["kernel"], 3 * 0.5 + 0.1 / 0.25, rtol=1e-6)
    np.testing.assert_allclose(free["encoder_norm"]["scale"], 0.5, rtol=1e-6)


def test_independent_decay_is_the_same_at_every_learning_rate() -> None:
    """Compares one update, learning rate · direction, for a gradient of 0."""
    shrunk = []
    for rate in (1e-3, 0.1):
        config = OptimConfig(learning_rate=rate, weight_decay=0.02, independent_decay=True)
        optimizer = make_optimizer(config)
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        direction, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS, learning_rate=rate)
        shrunk.append(rate * direction["head"]["kernel"])
    np.testing.assert_allclose(shrunk[0], shrunk[1], rtol=1e-6)
    np.testing.assert_allclose(shrunk[0], 0.02, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": ("head",)}, "optim.rates 'head' is not PATTERN:FACTOR"),
        ({"rates": ("head:0",)}, "optim.rates 'head:0' is not PATTERN:FACTOR"),
        ({"rates": ("head:nan",)}, "optim.rates 'head:nan' is not PATTERN:FACTOR"),
        ({"name": "palm_adafactor", "independent_decay": True}, "not for palm_adafactor"),
        ({"beta1": 1.0}, "optim.beta1 1 never lets a new value"),
        ({"beta2": 1.0}, "optim.beta2 1 never lets a new value"),
        ({"ema_decay": 1.0}, "optim.ema_decay 1 never lets a new value"),
        ({"name": "schedule_free", "ema_decay": 0.9}, "averages its iterates itself"),
    ],
)
def test_impossible_rates_and_decays_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**settings)


def test_a_pattern_that_matches_nothing_is_refused_with_what_is_near() -> None:
    optimizer = make_optimizer(OptimConfig(rates=("encoder/run0/q/kernal:2",)))
    with pytest.raises(ValueError, match="rates 'encoder/run0/q/kernal' matches none of 6.*kernel"):
        optimizer.init(PARAMS)

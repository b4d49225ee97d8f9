"""Soft targets over near codes: the definition, whatever the scale of the codebook."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.loss import cross_entropy
from model.near_codes import BLOCK, COUNT, Targets, soft_targets
from vqgan.pretrained import codebook

CODES = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
GENERAL = Path(__file__).parents[2] / "vqgan" / "general"


def targets_of(codes: np.ndarray, share: float, used: np.ndarray | None = None) -> Targets:
    """`soft_targets`, as one program, with NumPy arrays."""
    return jax.device_get(jax.jit(lambda codes: soft_targets(codes, share, used))(codes))


def dense(share: float) -> np.ndarray:
    """The target distribution of each code, by the definition, in NumPy's float64."""
    squares = np.square(CODES[:, None].astype(float) - CODES).sum(-1)
    np.fill_diagonal(squares, np.inf)
    nearest = np.argsort(squares, axis=1)[:, :COUNT]
    chosen = np.take_along_axis(squares, nearest, axis=1)
    weights = np.exp(-2 * chosen / chosen.mean())
    target = (1 - share) * np.eye(len(CODES))
    spread = np.zeros_like(target)
    np.put_along_axis(spread, nearest, weights / weights.sum(1, keepdims=True), axis=1)
    return target + share * spread


def test_the_loss_is_the_cross_entropy_with_the_spread_target() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (2, 7, 60)), rng.integers(0, 60, (2, 7))
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(dense(0.3)[labels] * log_shares).sum(-1)
    loss = lambda *given: cross_entropy(*given, targets=soft_targets(jnp.asarray(CODES), 0.3))  # noqa: E731
    found = jax.jit(loss)(np.float32(logits), labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradient_leads_to_the_spread_target() -> None:
    @jax.jit
    @jax.grad
    def slope(logits: jax.Array) -> jax.Array:
        targets = soft_targets(jnp.asarray(CODES), 0.3)
        return cross_entropy(logits, jnp.arange(60)[None], targets=targets).sum()

    found = np.asarray(slope(np.zeros((1, 60, 60), np.float32)))[0]
    np.testing.assert_allclose(found, 1 / 60 - dense(0.3), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_shares_do_not_depend_on_the_scale_of_the_codebook(scale: float) -> None:
    plain, scaled = targets_of(CODES, 0.2), targets_of(np.float32(scale) * CODES, 0.2)
    np.testing.assert_array_equal(plain.classes, scaled.classes)
    np.testing.assert_allclose(plain.shares, scaled.shares, rtol=1e-4)


def test_equal_codes_and_few_codes_have_finite_shares() -> None:
    for codes in (np.ones((12, 3), np.float32), np.eye(3, dtype=np.float32)):
        targets = targets_of(codes, 0.5)
        np.testing.assert_allclose(targets.shares.sum(1), 1, rtol=1e-6)
        own = np.arange(len(codes))[:, None]
        assert not (targets.classes[:, 1:] == own).any()


def test_a_code_alone_keeps_its_whole_target() -> None:
    assert soft_targets(jnp.ones((1, 3)), 0.5).shares.tolist() == [[1.0]]


def test_dead_codes_get_nothing() -> None:
    # As in VQGANs whose unused codes stay where they began, all at one place near the used ones.
    living = np.random.default_rng(2).normal(size=(60, 64)).astype(np.float32)
    codes, used = np.concatenate([living, np.zeros((100, 64), np.float32)]), np.arange(160) < 60
    targets = targets_of(codes, 0.2, used)
    alone = targets_of(living, 0.2)
    np.testing.assert_array_equal(targets.classes[:60], alone.classes)
    np.testing.assert_allclose(targets.shares[:60], alone.shares, rtol=1e-5)
    assert used[np.asarray(targets.classes[:, 1:])].all()
    without = targets_of(codes, 0.2).classes[:60, 1:]
    assert used[without].mean() < 0.1  # nearly all neighbours would be dead


def test_rare_codes_of_a_codebook_that_is_used_are_neighbours() -> None:
    used = np.arange(60) < 30
    targets, all_used = targets_of(CODES, 0.2, used), dense(0.2)
    np.testing.assert_array_equal(targets.classes, targets_of(CODES, 0.2).classes)
    assert not used[np.asarray(targets.classes)].all()
    np.testing.assert_allclose(targets.shares[:, 0], np.diag(all_used), rtol=1e-6)
    fewer = targets_of(CODES, 0.2, np.arange(60) < 29)
    assert (np.asarray(fewer.classes)[:, 1:] < 29).all()


def test_codes_far_from_zero_have_the_same_neighbours() -> None:
    codes = np.round(CODES * 64) / 64  # so that adding 1,000 rounds nothing
    plain, moved = (targets_of(shifted, 0.2) for shifted in (codes, codes + 1000))
    np.testing.assert_array_equal(plain.classes, moved.classes)
    np.testing.assert_allclose(plain.shares, moved.shares, rtol=1e-4)


def test_near_codes_of_the_shipped_vqgan_are_near() -> None:
    codes = np.asarray(codebook(GENERAL))
    targets = targets_of(codes, 0.2)
    assert len(codes) > 2 * BLOCK  # several blocks
    rows = np.arange(0, len(codes), 97)
    squares = np.square(np.asarray(codes)[rows, None] - np.asarray(codes)).sum(-1)
    of_near = np.take_along_axis(squares, np.asarray(targets.classes)[rows, 1:], axis=1)
    assert (of_near.max(1) <= np.sort(squares, axis=1)[:, COUNT] + 1e-5).all()
    assert (np.diff(np.asarray(targets.shares)[rows, 1:], axis=1) <= 1e-6).all()  # nearest first

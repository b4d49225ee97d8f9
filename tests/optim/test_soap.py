"""SOAP equals a NumPy reimplementation of the published algorithm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.config import OptimConfig, SoapConfig
from optim.optimizers import make_optimizer
from optim.soap import soap

BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8
CONFIG = SoapConfig(basis_every=3)


def gradient(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([n, *shape]).normal(size=shape)


class NumpySoap:
    """SOAP for one matrix in float64, after the authors' code (github.com/nikhilvyas/SOAP)."""

    def __init__(self, rows: int, columns: int, every: int) -> None:
        self.left, self.right = np.zeros((rows, rows)), np.zeros((columns, columns))
        self.mean, self.square = np.zeros((2, rows, columns))
        self.every, self.step = every, 0
        self.bases: Any = None

    def _count(self, g: np.ndarray) -> None:
        self.left += (1 - BETA2) * (g @ g.T - self.left)
        self.right += (1 - BETA2) * (g.T @ g - self.right)

    def direction(self, g: np.ndarray) -> np.ndarray:
        if self.bases is None:
            self._count(g)
            grams = (self.left, self.right)
            self.bases = [np.linalg.eigh(gram)[1][:, ::-1] for gram in grams]
            return np.zeros_like(g)
        left, right = self.bases
        self.step += 1
        self.mean = BETA1 * self.mean + (1 - BETA1) * g
        self.square = BETA2 * self.square + (1 - BETA2) * (left.T @ g @ right) ** 2
        factor = np.sqrt(1 - BETA2**self.step) / (1 - BETA1**self.step)
        ratio = factor * (left.T @ self.mean @ right) / (np.sqrt(self.square) + EPSILON)
        self._count(g)
        if self.step % self.every == 0:
            left_order, right_order = (
                np.argsort(-np.diag(basis.T @ gram @ basis))
                for basis, gram in zip(self.bases, (self.left, self.right), strict=True)
            )
            self.square = self.square[left_order][:, right_order]
            self.bases = [
                np.linalg.qr(self.left @ left[:, left_order])[0],
                np.linalg.qr(self.right @ right[:, right_order])[0],
            ]
        return left @ ratio @ right.T


def run(optimizer: Any, params: Any, grads_at: Any, steps: int) -> list[Any]:
    """The directions of all steps, in order."""
    update, state, found = jax.jit(optimizer.update), optimizer.init(params), []
    for n in range(steps):
        direction, state = update(jax.tree.map(jnp.float32, grads_at(n)), state, params)
        found.append(direction)
    return found


def test_directions_are_those_of_the_published_algorithm() -> None:
    optimizer = soap(CONFIG, BETA1, BETA2, EPSILON)
    found = run(
        optimizer, {"kernel": jnp.zeros((5, 5))}, lambda n: {"kernel": gradient(n, 5, 5)}, 12
    )
    reference = NumpySoap(5, 5, CONFIG.basis_every)
    for n, direction in enumerate(found):
        expected = reference.direction(gradient(n, 5, 5))
        np.testing.assert_allclose(direction["kernel"], expected, rtol=2e-3, atol=2e-3)
    assert np.abs(found[-1]["kernel"]).max() > 0.3


def test_blocks_and_layers_are_matrices_of_their_own() -> None:
    """A stack of two layers of 4 × 8 in blocks of 4 becomes four matrices of 4 × 4."""
    config = SoapConfig(basis_every=2, block_size=4)
    stack = lambda n: {"run0": {"kernel": gradient(n, 2, 4, 8)}}  # noqa: E731
    zeros = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.float32, stack(0)))
    found = run(soap(config, BETA1, BETA2), zeros, stack, 6)[-1]["run0"]["kernel"]
    for layer in range(2):
        for half in (slice(0, 4), slice(4, 8)):
            grads = [{"kernel": stack(n)["run0"]["kernel"][layer][:, half]} for n in range(6)]
            zero = {"kernel": jnp.zeros((4, 4))}
            alone = run(soap(config, BETA1, BETA2), zero, grads.__getitem__, 6)[-1]
            np.testing.assert_allclose(found[layer][:, half], alone["kernel"], atol=2e-3)


@pytest.mark.parametrize("name", ["text_embedding/tokens", "bias"])
def test_arrays_without_a_basis_get_adam_from_the_second_gradient_on(name: str) -> None:
    shape = (6, 3) if "/" in name else (3,)
    tree = lambda leaf: {"text_embedding": {"tokens": leaf}} if "/" in name else {"bias": leaf}  # noqa: E731
    grads = lambda n: tree(gradient(n, *shape))  # noqa: E731
    optim = OptimConfig(name="soap", beta1=BETA1, beta2=BETA2, clip_norm=0.0)
    zeros = tree(jnp.zeros(shape))
    found = run(make_optimizer(optim), zeros, grads, 4)
    adam = OptimConfig(name="adam", beta1=BETA1, beta2=BETA2, clip_norm=0.0)
    expected = run(make_optimizer(adam), zeros, lambda n: grads(n + 1), 3)
    assert not np.any(jax.tree.leaves(found[0])[0])
    for own, other in zip(found[1:], expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), own, other)


def test_the_direction_turns_with_the_gradients() -> None:
    """Rotated gradients give rotated updates, because the basis comes from the gradients."""
    turn = np.linalg.qr(gradient(99, 5, 5))[0]
    zeros = {"kernel": jnp.zeros((5, 5))}
    plain, turned = (
        run(soap(CONFIG, BETA1, BETA2), zeros, lambda n, q=q: {"kernel": q @ gradient(n, 5, 5)}, 8)
        for q in (np.eye(5), turn)
    )
    np.testing.assert_allclose(turned[-1]["kernel"], turn @ plain[-1]["kernel"], atol=5e-3)

"""LPIPS equals a plain NumPy one, with a narrow VGG-16 of random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqgan import perceptual
from vqgan.config import LossConfig
from vqgan.losses import reconstruction_loss
from weights.arrays import write_arrays

WIDTHS = (4, 6, 5, 7, 8)
NAMES = {"torchvision": "features.{}", "lpips": "loss.perceptual_loss.net.slice{stage}.{}"}


def vgg_arrays(names: str, lines: bool) -> dict[str, np.ndarray]:
    random, width, found = np.random.default_rng(0), 3, {}
    for stage, (numbers, out) in enumerate(zip(perceptual.STAGES, WIDTHS, strict=True)):
        for number in numbers:
            name = NAMES[names].format(number, stage=stage + 1)
            kernel = random.normal(size=(out, width, 3, 3)) / (9 * width) ** 0.5
            found[f"{name}.weight"] = kernel.astype(np.float32)
            found[f"{name}.bias"] = random.normal(size=out).astype(np.float32) / 4
            width = out
        if lines:
            line = random.random((1, out, 1, 1)).astype(np.float32)
            found[f"loss.perceptual_loss.lin{stage}.model.1.weight"] = line
    return found


def by_hand(arrays: dict[str, np.ndarray], names: str, a: np.ndarray, b: np.ndarray) -> float:
    """The distance of one pair, channels first, by the paper's definition."""
    total = 0.0
    both = [(x.transpose(2, 0, 1) - SHIFT) / SCALE for x in (a, b)]
    for stage, numbers in enumerate(perceptual.STAGES):
        if stage:
            size = both[0].shape[1] // 2
            both = [x.reshape(len(x), size, 2, size, 2).max((2, 4)) for x in both]
        for number in numbers:
            name = NAMES[names].format(number, stage=stage + 1)
            kernel, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
            both = [convolved(x, kernel, bias) for x in both]
        line = arrays.get(f"loss.perceptual_loss.lin{stage}.model.1.weight")
        weight = np.full(len(both[0]), 1 / len(both[0])) if line is None else line.ravel()
        one, other = (x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in both)
        total += float((weight[:, None, None] * (one - other) ** 2).sum(0).mean())
    return total


SHIFT = np.array([-0.030, -0.088, -0.188])[:, None, None]
SCALE = np.array([0.458, 0.448, 0.450])[:, None, None]


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    from scipy.signal import correlate  # seconds, in each worker that only collects the tests

    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    maps = [
        correlate(padded, k, "valid", "direct")[0] + c for k, c in zip(kernel, bias, strict=True)
    ]
    return np.maximum(np.stack(maps), 0)


def pictures(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def write_vgg(path: Path, names: str = "torchvision", lines: bool = False) -> str:
    write_arrays(path, vgg_arrays(names, lines))
    return str(path)


@pytest.mark.parametrize(("names", "lines"), [("torchvision", False), ("lpips", True)])
def test_the_distance_is_that_of_the_paper(names: str, lines: bool, tmp_path: Path) -> None:
    vgg = perceptual.open_vgg(write_vgg(tmp_path / "vgg.safetensors", names, lines))
    a, b = pictures(0), pictures(1)
    distance = jax.jit(lambda a, b: perceptual.distance(vgg, a, b))
    found = distance(a, b)
    expected = [by_hand(vgg_arrays(names, lines), names, *pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(distance(a, a), 0)


def test_it_is_a_term_of_the_loss_with_a_finite_gradient(tmp_path: Path) -> None:
    path = write_vgg(tmp_path / "vgg.safetensors")
    with_term, without = LossConfig(perceptual=0.5, perceptual_weights=path), LossConfig()
    a, b = jnp.asarray(pictures(0)), jnp.asarray(pictures(1))
    vgg = perceptual.open_vgg(path)

    @jax.jit
    def more_and_seen(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        more = reconstruction_loss(a, b, with_term) - reconstruction_loss(a, b, without)
        return more, perceptual.distance(vgg, a, b).mean()

    more, seen = more_and_seen(a, b)
    assert float(more) == pytest.approx(0.5 * float(seen), rel=1e-4)
    dead = dict.fromkeys(("a", "b"), jnp.zeros((1, 16, 16, 3)))  # where all features are zero
    grads = jax.jit(jax.grad(lambda x: reconstruction_loss(dead["a"], x, with_term)))(dead["b"])
    assert np.isfinite(grads).all()


def test_wrong_files_are_named(tmp_path: Path) -> None:
    missing, other, wide = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"a.safetensors cannot be read"):
        perceptual.open_vgg(str(missing))
    arrays = vgg_arrays("torchvision", lines=False)
    write_arrays(other, {k: v for k, v in arrays.items() if not k.startswith("features.28")})
    with pytest.raises(ValueError, match=r"2 of its 26 arrays are missing, .* features.28.bias"):
        perceptual.open_vgg(str(other))
    write_arrays(wide, arrays | {"features.2.weight": np.ones((4, 5, 3, 3), np.float32)})
    with pytest.raises(ValueError, match=r"features.2.weight has shape \(4, 5, 3, 3\)"):
        perceptual.open_vgg(str(wide))
    with pytest.raises(ValueError, match="belong together"):
        LossConfig(perceptual=1.0)
    small = jnp.zeros((1, 8, 8, 3))
    vgg = perceptual.open_vgg(write_vgg(tmp_path / "d.safetensors"))
    with pytest.raises(ValueError, match="8 × 8 pixels are too small"):
        perceptual.distance(vgg, small, small)

"""Reconstructions of pictures: computed, measured, and drawn beside their originals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from common.files import new_file
from common.filling import batches_of
from common.pixels import to_bytes, to_floats
from common.split_names import TRAIN
from vqgan import metrics, quantizer
from vqgan.autoencoder import Autoencoder
from vqgan.layers import Params
from vqgan.pictures import Pictures

A = TypeVar("A")


class Reconstructions(TypedDict, Generic[A]):
    """The results for each of several pictures; `A` is np.ndarray or jax.Array."""

    tokens: Int[A, "b n"]
    reconstruction: Float[A, "b y x 3"]
    """In −1..1."""
    psnr: Float[A, " b"]
    """dB."""
    ssim: Float[A, " b"]


Reconstruct = Callable[[Params, Pictures], Reconstructions]
"""(parameters, pictures) → their reconstructions."""
_BATCH = 64


def make_reconstruction(
    autoencoder: Autoencoder, is_quantized: bool = True
) -> Callable[[Params, Pictures], Reconstructions[Array]]:
    """A compiled function (parameters, pictures) → their reconstructions. With `is_quantized`
    False, the decoder gets the latents."""

    def reconstruct(params: Params, pixels: UInt8[Array, "b y x 3"]) -> Reconstructions[Array]:
        real = to_floats(pixels)
        tokens = autoencoder.encode(params, real)
        if is_quantized:
            decoded = autoencoder.decode(params, tokens)
        else:
            decoded = autoencoder.decode_latents(params, autoencoder.latents(params, real))
        reconstruction = jnp.clip(decoded, -1.0, 1.0)
        return {
            "tokens": tokens,
            "reconstruction": reconstruction,
            "psnr": metrics.psnr(real, reconstruction),
            "ssim": metrics.ssim(real, reconstruction),
        }

    return jax.jit(reconstruct)


def reconstruct_all(
    reconstruct: Reconstruct, params: Params, pictures: Pictures
) -> Reconstructions[np.ndarray]:
    """The results of `reconstruct` for all pictures, in batches of one size."""
    batches: list[Reconstructions[np.ndarray]] = []
    for rows, count in batches_of(_BATCH, len(pictures)):
        result = reconstruct(params, pictures[rows])
        batches.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], result))
    return _joined(batches)


def _joined(parts: Sequence[Reconstructions[np.ndarray]]) -> Reconstructions[np.ndarray]:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def make_figures(
    reconstruct: Reconstruct, sets: Mapping[str, Pictures], codebook_size: int
) -> Callable[[Params], dict[str, float]]:
    """A function params → metrics: the mean PSNR and SSIM of each set and of all held-out pictures
    together, and the share of codes in use. The set `train` is not held out."""

    def figures(params: Params) -> dict[str, float]:
        results = {name: reconstruct_all(reconstruct, params, p) for name, p in sets.items()}
        held_out = [r for name, r in results.items() if name != TRAIN] or [*results.values()]
        results["all"] = _joined(held_out)
        values = {}
        for name, result in results.items():
            values[f"eval/{name}/psnr"] = float(result["psnr"].mean())
            values[f"eval/{name}/ssim"] = float(result["ssim"].mean())
        counts = quantizer.count(jnp.asarray(results["all"]["tokens"]), codebook_size)
        values["eval/all/usage"] = float(quantizer.usage(counts))
        values["eval/all/perplexity"] = float(quantizer.perplexity(counts))
        return values

    return figures


def write_grid(
    path: Path, reconstruct: Reconstruct, params: Params, pictures: Pictures, columns: int = 16
) -> None:
    """Write a PNG with rows of pictures, each followed by the row of their reconstructions."""
    decoded = to_bytes(reconstruct_all(reconstruct, params, pictures)["reconstruction"])
    rows = []
    for start in range(0, len(pictures), columns):
        for images in (pictures, decoded):
            some = images[start : start + columns]
            missing = columns - len(some)
            rows.append(np.pad(some, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255))
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    with new_file(path) as beside:
        Image.fromarray(page).save(beside, "PNG")

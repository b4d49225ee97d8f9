"""Compares tokenizers on held-out pictures: PSNR in dB, SSIM, hue error, codes in use.

python -m experiments.tokenizers pictures/general vqgan/openmoji vqgan/general --grid grid.png

It prints one table for each held-out split of the source. The grid has rows of real pictures; below
each follows one row per tokenizer, in the order given.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from common.pixels import to_bytes, to_floats
from common.split_names import TRAIN
from vqgan import pretrained, quantizer
from vqgan.autoencoder import build
from vqgan.losses import hue_loss
from vqgan.pictures import Pictures, evenly_spaced
from vqgan.reconstructions import Reconstructions, make_reconstruction, reconstruct_all
from vqgan.sets import PicturesConfig, read_sets

COLUMNS = 16
SHOWN = 64
COLOURED = 0.25  # a pixel is coloured if max − min of red, green, blue exceeds this


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("tokenizers", nargs="+")
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--most", type=int, default=1000, help="most pictures per split")
    arguments = parser.parse_args()
    opened = [pretrained.load(path) for path in arguments.tokenizers]
    sets, _ = read_sets(PicturesConfig(source=(arguments.source,)), opened[0][0].image_size)
    held_out = {
        name: evenly_spaced([p], arguments.most) for name, p in sets.items() if name != TRAIN
    }
    shown = evenly_spaced([*held_out.values()], SHOWN)
    rows = [shown]
    print(f"{'':32}{'pictures':>9}{'dB':>8}{'SSIM':>8}{'hue':>8}{'used %':>8}{'perplexity':>12}")
    for path, (config, params) in zip(arguments.tokenizers, opened, strict=True):
        reconstruct = make_reconstruction(build(config))
        for name, pictures in held_out.items():
            reconstructions = reconstruct_all(reconstruct, params, pictures)
            text = "".join(figures(pictures, reconstructions, config.codebook_size))
            print(f"{path[-20:]:20} {name[-11:]:11}{len(pictures):>9,}{text}", flush=True)
        painted = reconstruct_all(reconstruct, params, shown)["reconstruction"]
        rows.append(to_bytes(painted))
    if arguments.grid:
        Image.fromarray(lay_out(rows)).save(arguments.grid)


def figures(
    pictures: Pictures, reconstructions: Reconstructions[np.ndarray], codebook_size: int
) -> list[str]:
    """The cells PSNR, SSIM, hue error of coloured pixels, and codes in use."""
    real, painted = to_floats(jnp.asarray(pictures)), jnp.asarray(reconstructions["reconstruction"])
    has_hue = (real.max(-1, keepdims=True) - real.min(-1, keepdims=True)) / 2 > COLOURED
    lost = float(hue_loss(jnp.where(has_hue, painted - real, 0.0))) / float(has_hue.mean())
    counts = quantizer.count(jnp.asarray(reconstructions["tokens"]), codebook_size)
    used, spread_over = float(quantizer.usage(counts)), float(quantizer.perplexity(counts))
    psnr, ssim = float(reconstructions["psnr"].mean()), float(reconstructions["ssim"].mean())
    return [f"{psnr:8.2f}", f"{ssim:8.4f}", f"{lost:8.3f}", f"{used:8.1%}", f"{spread_over:12,.0f}"]


def lay_out(kinds: list[Pictures]) -> np.ndarray:
    """The grid: rows of COLUMNS real pictures, each followed by a row of reconstructions per
    tokenizer."""
    lines = []
    for start in range(0, len(kinds[0]), COLUMNS):
        for images in kinds:
            some = images[start : start + COLUMNS]
            missing = ((0, COLUMNS - len(some)), (0, 0), (0, 0), (0, 0))
            lines.append(np.concatenate([*np.pad(some, missing, constant_values=255)], axis=1))
    return np.concatenate(lines)


if __name__ == "__main__":
    main()

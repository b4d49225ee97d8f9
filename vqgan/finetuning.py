"""--init_from of a VQGAN: weights of the same layers, for any picture size and any codebook.

All layers are convolutions or attention, so weights that were trained on 64 × 64 pixels work on
128 × 128 pixels, with four times the tokens.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from vqgan import pretrained
from vqgan.config import VQGANConfig
from vqgan.layers import Params

FREE = ("image_size", "codebook_size", "tried_codes")
"""Settings that may differ between the run and the weights; decoder_blocks may be larger, too."""


def fit(
    path: str | Path,
    config: VQGANConfig,
    fresh: Params,
    opened: tuple[VQGANConfig, Params] | None = None,
) -> tuple[Params, list[str]]:
    """(the weights of a folder or checkpoint for `config`, lines for the logbook). A codebook of
    another size is taken from `fresh`; k-means then initialises it. Further blocks of the decoder
    are taken from `fresh`, where a block is nearly the identity. `opened` is what pretrained.load
    returned for the path, if it was called already.

    Raises:
        FileNotFoundError, ValueError: as pretrained.load; or the weights are another model's.
    """
    given, params = opened or pretrained.load(path)
    differing = [
        f"model.{name} (is {getattr(given, name)} there, {getattr(config, name)} here)"
        for name in (field.name for field in dataclasses.fields(VQGANConfig))
        if name not in FREE and getattr(given, name) != getattr(config, name)
        if not (name == "decoder_blocks" and _is_deeper(given, config))
    ]
    if differing:
        raise ValueError(f"init_from {path} is a different model: {', '.join(differing)}")
    lines = [f"weights of {path}"]
    if given.codebook_size != config.codebook_size:
        params = {**params, "codebook": fresh["codebook"]}
        lines.append(f"a new codebook: {given.codebook_size:,} codes, now {config.codebook_size:,}")
    if more := [name for name in fresh["decoder"] if name not in params["decoder"]]:
        params = {**params, "decoder": {**fresh["decoder"], **params["decoder"]}}
        lines.append(f"new blocks of the decoder, nearly the identity: {', '.join(more)}")
    return jax.tree.map(lambda new, old: np.asarray(old, new.dtype), fresh, params), lines


def _is_deeper(given: VQGANConfig, config: VQGANConfig) -> bool:
    counts = given.decoder_blocks, config.decoder_blocks
    return len(counts[0]) == len(counts[1]) and all(
        there <= here for there, here in zip(*counts, strict=True)
    )


def keeps_codebook(path: str, config: VQGANConfig, warmup_steps: int) -> bool:
    """True if the codebook of the weights is kept: its size is the same, without a warm-up."""
    return bool(path) and not warmup_steps and _codes(path) == config.codebook_size


def _codes(path: str) -> int:
    return pretrained.load(path)[0].codebook_size

"""VQGANs of other programs in the tests: one of vqgan-jax, and a GumbelVQ of
taming-transformers."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vqgan.config import VQGANConfig

ROOT = Path(__file__).parents[2]
REFERENCE = Path(__file__).parents[1] / "reference"
FLAX = REFERENCE / "vqgan_flax" / "vqgan_flax"
GUMBEL = REFERENCE / "vqgan_torch" / "gumbel_res1.weights.safetensors"
TORCH_PICKLE = REFERENCE / "vqgan_torch" / "vqgan_res1.data.pkl"
"""The pickle of a .ckpt that torch wrote, without its storages: names and shapes of a VQModel."""
RES1 = {
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 32,
    "z_channels": 32,
    "n_embed": 64,
    "embed_dim": 32,
}
"""The settings of that model."""


F16 = VQGANConfig(
    image_size=256,
    patch_size=1,
    edge_kernel=3,
    stem_channels=128,
    channels=(128, 128, 256, 256, 512),
    encoder_blocks=(2,) * 5,
    decoder_blocks=(3,) * 5,
    attention_resolutions=(16,),
    middle="attention",
    resampling="conv",
    norm="groupnorm",
    latent_channels=256,
    code_dim=256,
    codebook_size=16384,
    normalize_codes=False,
)
"""taming-transformers' ImageNet f16 VQGAN with 16,384 codes, which DALL·E mini uses."""


def settings() -> dict[str, Any]:
    """GUMBEL's settings, nested as in its json."""
    values = json.loads(GUMBEL.with_name("gumbel_res1.json").read_text())
    return {name: values[name] for name in ("ddconfig", "n_embed", "embed_dim")}


def equal(one: Any, other: Any) -> bool:
    """True if two trees have the same numbers."""
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))

"""Pastel's VQGANs and taming-transformers' (Esser et al. 2020, arXiv:2012.09841): translates their
settings, and names for each parameter of Pastel its array in checkpoints of taming-transformers and
of vqgan-jax."""

import re
import reprlib
from collections.abc import Mapping

import numpy as np

from common.json_files import Json
from vqgan.config import VQGANConfig
from weights.plans import Leaf, Plan

NUMBERS = ("ch", "num_res_blocks", "resolution", "z_channels", "n_embed", "embed_dim")
LISTS = ("ch_mult", "attn_resolutions")
FIXED: Json = {
    "in_channels": 3,
    "out_ch": 3,
    "double_z": False,
    "give_pre_end": False,
    "tanh_out": False,
    "attn_type": "vanilla",
    "use_linear_attn": False,
    "remap": None,
}
"""Settings of some versions, each with the only value that is supported here."""
MOST = {"num_res_blocks": 64, "ch_mult": 64}
LARGEST = 1 << 24

WHOLE = {
    "stem": "{side}.conv_in",
    "middle_0": "{side}.mid.block_1",
    "middle_1": "{side}.mid.attn_1",
    "middle_2": "{side}.mid.block_2",
    "head": "{side}",
    "to_code": "quant_conv",
    "from_code": "post_quant_conv",
}
BY_LEVEL = {
    "block": "{side}.{stage}.{level}.block.{number}",
    "attention": "{side}.{stage}.{level}.attn.{number}",
    "down": "{side}.{stage}.{above}.downsample.conv",
    "up": "{side}.{stage}.{level}.upsample.conv",
}
INSIDE = {"query": "q", "key": "k", "value": "v", "out": "proj_out", "shortcut": "nin_shortcut"}


def read_settings(values: Mapping[str, object], is_gumbel: bool = False) -> VQGANConfig:
    """The VQGANConfig for the settings of `ddconfig`, n_embed and embed_dim.

    Raises:
        ValueError: a setting is missing or not supported; the message names it.
    """
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise ValueError(f"{name} is {brief(values[name])}; only {only} can be read")
    number = {name: _whole(name, values.get(name)) for name in NUMBERS}
    lists = {name: _whole_numbers(name, values.get(name)) for name in LISTS}
    levels, blocks = len(lists["ch_mult"]), number["num_res_blocks"]
    has_convolutions = values.get("resamp_with_conv", True)
    if type(has_convolutions) is not bool:
        raise ValueError(f"resamp_with_conv must be true or false, not {brief(has_convolutions)}")
    return VQGANConfig(
        image_size=number["resolution"],
        patch_size=1,
        edge_kernel=3,
        stem_channels=number["ch"],
        channels=tuple(number["ch"] * m for m in lists["ch_mult"]),
        encoder_blocks=(blocks,) * levels,
        decoder_blocks=(blocks + 1,) * levels,
        attention_resolutions=lists["attn_resolutions"],
        middle="attention",
        resampling="conv" if has_convolutions else "pool",
        norm="groupnorm",
        latent_channels=number["z_channels"],
        code_dim=number["embed_dim"],
        codebook_size=number["n_embed"],
        normalize_codes=False,
        lookup="classifier" if is_gumbel else "nearest",
    )


def brief(value: object) -> str:
    """The first 60 characters of a value as text. Aliases in a yaml can make the full text
    endless."""
    return reprlib.repr(value)[:60]


def _whole(name: str, value: object) -> int:
    most = MOST.get(name, LARGEST)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} must be a whole number in 1..{most}, not {brief(value)}")
    return value


def _whole_numbers(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) > 16 or (name in MOST and not values):
        raise ValueError(f"{name} must be a list of whole numbers, not {brief(values)}")
    return tuple(_whole(name, value) for value in values)


def write_settings(config: VQGANConfig) -> Json:
    """The settings for `config`: those of `ddconfig`, n_embed and embed_dim.

    Raises:
        ValueError: taming-transformers has no option for one of Pastel's; the message names it.
    """
    stem, blocks = config.stem_channels, config.encoder_blocks[0]
    values = {
        "ch": stem,
        "ch_mult": [c // stem for c in config.channels],
        "num_res_blocks": blocks,
        "attn_resolutions": list(config.attention_resolutions),
        "resolution": config.image_size,
        "z_channels": config.latent_channels,
        "resamp_with_conv": config.resampling == "conv",
        "n_embed": config.codebook_size,
        "embed_dim": config.code_dim,
    }
    readable = read_settings(values, config.lookup == "classifier")
    for name, value in vars(config).items():
        if vars(readable)[name] != value:
            raise ValueError(
                f"{name} {value}: taming-transformers has no setting for it; its VQGAN of this "
                f"size has {vars(readable)[name]}"
            )
    constant = {"in_channels": 3, "out_ch": 3, "dropout": 0.0, "double_z": False}
    return {**values, **constant}


def flax_settings(config: VQGANConfig) -> Json:
    """The settings in vqgan-jax's form. Raises ValueError if it lacks an option of Pastel's."""
    more = {"num_resolutions": len(config.channels), "give_pre_end": False}
    return dict(sorted({**write_settings(config), **more}.items()))


def torch_plan(shapes: Mapping[str, tuple[int, ...]], config: VQGANConfig) -> Plan:
    """The array in a state dict of taming-transformers for each of Pastel's parameters."""
    table = "embedding" if config.lookup == "nearest" else "embed"
    plan = {}
    for path, shape in shapes.items():
        module, leaf = _module(path)
        key = f"{module}.{'bias' if leaf == 'bias' else 'weight'}"
        if len(shape) == 4:
            y, x, c_in, c_out = shape
            torch_shape = (c_out, c_in, y, x)
            plan[path] = Leaf((key,), torch_shape, False, _to_pastel, _to_torch)
        else:
            plan[path] = Leaf((f"quantize.{table}.weight" if path == "codebook" else key,), shape)
    return plan


def _to_pastel(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _to_torch(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def flax_plan(shapes: Mapping[str, tuple[int, ...]], config: VQGANConfig) -> Plan:
    """The array in a file of vqgan-jax for each of Pastel's parameters."""
    if config.lookup == "classifier":
        raise ValueError("vqgan-jax has no GumbelVQ; only taming-transformers has")
    plan = {}
    for path, shape in shapes.items():
        module, leaf = _module(path)
        parent = re.sub(r"[.]([0-9]+)", r"_\1", module).replace(".", "/")
        plan[path] = Leaf((f"{parent}/{leaf}",), shape)
    return plan


def _module(path: str) -> tuple[str, str]:
    """(the module's name in taming-transformers, the last part of Pastel's path)."""
    if path == "codebook":
        return "quantize.embedding", "embedding"
    *parents, leaf = path.split("/")
    if parents == ["classifier"]:
        return "quantize.proj", leaf
    side, layer, *inside = parents
    layer_type, *numbers = layer.split("_")
    if layer in WHOLE:
        module = WHOLE[layer].format(side=side)
    else:
        level = int(numbers[0])
        stage = "down" if side == "encoder" else "up"
        module = BY_LEVEL[layer_type].format(
            side=side, stage=stage, level=level, above=level - 1, number=numbers[-1]
        )
    ending = "_out" if layer == "head" else ""
    return ".".join([module, *(INSIDE.get(part, part) + ending for part in inside)]), leaf

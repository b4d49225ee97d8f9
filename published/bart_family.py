"""Settings that BART and DALL·E mini share: BART's names and Pastel's, both directions."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from common.json_files import Json
from model.config import ModelConfig
from weights.settings import Fields, read_fields

OF_BART: Fields = {
    "d_model": ("dim", 1024),
    "encoder_layers": ("encoder_depth", 12),
    "decoder_layers": ("decoder_depth", 12),
    "encoder_attention_heads": ("num_heads", 16),
    "decoder_attention_heads": ("decoder_num_heads", 16),
    "encoder_ffn_dim": ("mlp_dim", 4096),
    "decoder_ffn_dim": ("decoder_mlp_dim", 4096),
    "activation_function": ("activation", "gelu"),
    "scale_embedding": ("scale_embedding", False),
    "init_std": ("init_std", 0.02),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.0),
    "activation_dropout": ("activation_dropout", 0.0),
}
"""BART's settings that DALL·E mini has too → (Pastel's setting, the default of both)."""


def check_settings(
    config: ModelConfig,
    program: str,
    allowed: Mapping[str, Collection[object]],
    free: Collection[str],
) -> None:
    """Raise ValueError for a setting that `program` has no option for: its value is not `allowed`.
    Settings in neither `allowed` nor `free` must have their defaults."""
    defaults = ModelConfig()
    for field in dataclasses.fields(ModelConfig):
        value, default = (getattr(settings, field.name) for settings in (config, defaults))
        known = allowed.get(field.name, [default])
        if field.name not in free and value not in known:
            raise ValueError(
                f"model.{field.name} {value}: {program} has no setting for it; it has only "
                f"{' and '.join(str(choice) for choice in known)}"
            )


def read_transformer(
    values: Mapping[str, object],
    fields: Fields,
    activations: Mapping[str, str],
) -> dict[str, Any]:
    """Settings by Pastel's names of a program that has `fields` and `activations`. A decoder's size
    that equals the encoder's is 0.

    Raises:
        ValueError: a setting is of a wrong type, or the activation is unknown.
    """
    settings = read_fields(values, fields)
    if settings["activation"] not in activations:
        known = ", ".join(activations)
        raise ValueError(f"activation_function {settings['activation']} is not one of {known}")
    settings["activation"] = activations[settings["activation"]]
    for size in ("num_heads", "mlp_dim"):
        if settings[f"decoder_{size}"] == settings[size]:
            settings[f"decoder_{size}"] = 0
    return settings


def write_transformer(
    config: ModelConfig,
    fields: Fields,
    activations: Mapping[str, str],
) -> Json:
    """Settings by the program's names, the inverse of `read_transformer`. Of several names of an
    activation the first is written."""
    first_names: dict[str, str] = {}
    for name, pastel_name in activations.items():
        first_names.setdefault(pastel_name, name)
    return {name: getattr(config, pastel_name) for name, (pastel_name, _) in fields.items()} | {
        "activation_function": first_names[config.activation],
        "decoder_attention_heads": config.decoder_num_heads or config.num_heads,
        "decoder_ffn_dim": config.decoder_mlp_dim or config.mlp_dim,
    }


def square_grid(image_length: int) -> dict[str, Any]:
    """Rows and columns of a picture of `image_length` tokens: a square, else one row."""
    side = math.isqrt(image_length)
    if side * side == image_length:
        return {"grid_size": side, "grid_rows": 0}
    return {"grid_size": image_length, "grid_rows": 1}

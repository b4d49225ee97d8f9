"""Shared parts of the configurations of other programs' transformers."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from model.config import ModelConfig


def check_words(
    config: ModelConfig,
    program: str,
    allowed: Mapping[str, Collection[Any]],
    free: Collection[str],
) -> None:
    """Raise ValueError for a setting that `program` has no option for: its value is not `allowed`.
    Settings in neither `allowed` nor `free` must have their defaults."""
    for field in dataclasses.fields(ModelConfig):
        value, known = getattr(config, field.name), allowed.get(field.name, [field.default])
        if field.name not in free and value not in known:
            raise ValueError(
                f"model.{field.name} {value}: {program} has no word for it, it knows only "
                f"{' and '.join(str(one) for one in known)}"
            )


def square_grid(image_length: int) -> dict[str, Any]:
    """Rows and columns of a picture of `image_length` tokens: a square, else one row."""
    side = math.isqrt(image_length)
    if side * side == image_length:
        return {"grid_size": side, "grid_rows": 0}
    return {"grid_size": image_length, "grid_rows": 1}


def same_or_zero(decoder: int, encoder: int) -> int:
    """A decoder's size in our fields: 0 if it equals the encoder's."""
    return 0 if decoder == encoder else decoder

"""A trained transformer as a release folder: config.json and model.safetensors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.transformer import Params
from model.weights import Dtype, read_weights, write_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def save(
    folder: Path,
    model: ModelConfig,
    sampling: SamplingConfig,
    params: Params,
    dtype: Dtype = "float32",
) -> None:
    """Write both files, the weights as `dtype`; they are read back as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS_FILE, params, dtype)
    config = {"model": dataclasses.asdict(model), "sampling": dataclasses.asdict(sampling)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[ModelConfig, SamplingConfig, Params]:
    """Read a release folder. Raises ValueError if a file is damaged or does not fit the other."""
    model, sampling = _read_config(folder / CONFIG_FILE)
    expected = jax.eval_shape(transformer.build(model).init, jax.random.key(0))
    return model, sampling, read_weights(folder / WEIGHTS_FILE, expected)


def _read_config(path: Path) -> tuple[ModelConfig, SamplingConfig]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ModelConfig(**tree["model"]), SamplingConfig(**tree["sampling"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of this transformer: {error}") from None

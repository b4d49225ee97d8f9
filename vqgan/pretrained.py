"""A trained autoencoder as a folder: config.json and model.safetensors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from model.weights import Dtype, read_weights, write_weights
from vqgan.autoencoder import build
from vqgan.config import VQGANConfig
from vqgan.layers import Params

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SHIPPED = Path(__file__).parent / "openmoji"
"""The tokenizer of the built-in data; its MODEL_CARD.md says how it was made."""


def save(folder: str | Path, config: VQGANConfig, params: Params, dtype: Dtype = "float16") -> None:
    """Write both files, the weights as `dtype`; they are read back as float32."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(path / WEIGHTS_FILE, params, dtype)
    text = json.dumps(dataclasses.asdict(config), indent=1)
    (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: str | Path = SHIPPED) -> tuple[VQGANConfig, Params]:
    """The configuration and float32 parameters of a release folder.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one is damaged, or the weights are not those of the configuration.
    """
    path = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(f"no {name} in {path}: a VQGAN folder has config.json and it")
    config = _read_config(path / CONFIG_FILE)
    expected = jax.eval_shape(build(config).init, jax.random.key(0))
    return config, read_weights(path / WEIGHTS_FILE, expected)


def _read_config(path: Path) -> VQGANConfig:
    known = {field.name for field in dataclasses.fields(VQGANConfig)}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"has settings that this version does not know: {unknown}")
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return VQGANConfig(**{**values, **tuples})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no configuration of a VQGAN: {error}") from None

"""A trained autoencoder as a folder: config.json and model.safetensors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from vqgan.autoencoder import build
from vqgan.config import VQGANConfig
from vqgan.layers import Params

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SHIPPED = Path(__file__).parent / "openmoji"
"""The tokenizer of the built-in data; its MODEL_CARD.md says how it was made."""


def save(
    folder: str | Path, config: VQGANConfig, params: Params, dtype: np.dtype | type = np.float16
) -> None:
    """Write a release folder, the weights as `dtype`; computing stays in float32."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    flat = flatten_dict(params, sep="/")
    save_file({k: np.asarray(v).astype(dtype) for k, v in flat.items()}, path / WEIGHTS_FILE)
    (path / WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody else read it
    text = json.dumps(dataclasses.asdict(config), indent=1)
    (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: str | Path = SHIPPED) -> tuple[VQGANConfig, Params]:
    """The configuration and float32 parameters of a release folder.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when the weights are not those of the configuration.
    """
    path = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(f"no {name} in {path}: a VQGAN folder has config.json and it")
    config = _read_config(path / CONFIG_FILE)
    flat = {k: v.astype(np.float32) for k, v in load_file(path / WEIGHTS_FILE).items()}
    expected = jax.eval_shape(build(config).init, jax.random.key(0))
    shapes = {k: tuple(v.shape) for k, v in flatten_dict(expected, sep="/").items()}
    found = {k: v.shape for k, v in flat.items()}
    if shapes != found:
        odd = sorted(k for k in shapes.keys() | found.keys() if shapes.get(k) != found.get(k))
        raise ValueError(
            f"{path / WEIGHTS_FILE} does not fit its config.json: {len(odd)} of {len(shapes)} "
            f"arrays differ, first {odd[0]}: {found.get(odd[0])} instead of {shapes.get(odd[0])}"
        )
    return config, unflatten_dict(flat, sep="/")


def _read_config(path: Path) -> VQGANConfig:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(VQGANConfig)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{path} has settings that this version does not know: {unknown}")
    tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    return VQGANConfig(**{**values, **tuples})

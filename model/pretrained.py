"""A trained transformer as a release folder: config.json and model.safetensors.

`python -m model.pretrained --checkpoint RUN --out FOLDER` makes one of a run, with its tokenizer
and its VQGAN, so that the folder draws on its own.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.transformer import Params

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def save(
    folder: Path,
    model: ModelConfig,
    sampling: SamplingConfig,
    params: Params,
    dtype: str = "float32",
) -> None:
    """Write both files, the weights as `dtype`; they are read back as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {k: np.asarray(v).astype(dtype) for k, v in flatten_dict(params, sep="/").items()}
    save_file(flat, folder / WEIGHTS_FILE)
    config = {"model": dataclasses.asdict(model), "sampling": dataclasses.asdict(sampling)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[ModelConfig, SamplingConfig, Params]:
    """Read a release folder. Raises ValueError if a file is damaged or does not fit the other."""
    model, sampling = _read_config(folder / CONFIG_FILE)
    try:
        flat = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from None
    params = unflatten_dict({k: v.astype(np.float32) for k, v in flat.items()}, sep="/")
    check_shapes(params, model, str(folder / WEIGHTS_FILE))
    return model, sampling, params


def check_shapes(params: Params, model: ModelConfig, origin: str) -> None:
    """Raises ValueError that names an array which the configuration does not want like that."""
    expected = jax.eval_shape(transformer.build(model).init, jax.random.key(0))
    wanted, found = (
        {name: tuple(leaf.shape) for name, leaf in flatten_dict(tree, sep="/").items()}
        for tree in (expected, params)
    )
    odd = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if odd:
        raise ValueError(
            f"{origin} does not fit its configuration: {len(odd)} of {len(wanted)} arrays differ, "
            f"first {odd[0]}: {found.get(odd[0])} instead of {wanted.get(odd[0])}"
        )


def _read_config(path: Path) -> tuple[ModelConfig, SamplingConfig]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ModelConfig(**tree["model"]), SamplingConfig(**tree["sampling"])
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of this transformer: {error}") from None


if __name__ == "__main__":
    from config import run
    from drawing import ReleaseConfig, release

    run(release, ReleaseConfig, prog="python -m model.pretrained", about=__doc__ or "")

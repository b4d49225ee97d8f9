"""Reads and writes VQGANs of taming-transformers: a checkpoint (torch or .safetensors) and a yaml.

Both kinds are read: VQModel and GumbelVQ. Known arrays that only training uses are skipped.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import yaml

from common.files import write_text
from common.json_files import Json, read_json
from published.taming_layout import brief, read_settings, write_settings
from vqgan.config import VQGANConfig
from weights.arrays import Arrays, read_arrays, write_arrays
from weights.torch_file import read_torch_file
from weights.yaml_files import read_yaml

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "model.yaml"
TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
TRAINING_PREFIXES = ("loss.", "model_ema.")
TRAINING_KEYS = {
    "colorize",
    *(f"quantize.{name}" for name in ("temperature", "cluster_size", "embed_avg", "ema_w")),
    *(f"quantize.embedding.{name}" for name in ("cluster_size", "embed_avg")),
}
TABLES = ("quantize.embedding.weight", "quantize.embed.weight")
"""Keys of the codebook: VQModel's, then GumbelVQ's. Some versions swap them."""
PROJECTION = "quantize.proj.weight"
TARGETS = {"nearest": "taming.models.vqgan.VQModel", "classifier": "taming.models.vqgan.GumbelVQ"}
BESIDE: Json = {"lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"}}
GUMBEL_BESIDE: Json = {
    "temperature_scheduler_config": {
        "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
        "params": {
            "warm_up_steps": 0,
            "max_decay_steps": 1,
            "lr_start": 1.0,
            "lr_max": 1.0,
            "lr_min": 1.0,
        },
    }
}
"""Training settings that taming-transformers requires to build a model."""


def find_weights(folder: Path) -> Path | None:
    """The checkpoint in a folder, or None. Raises ValueError if there are several."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:4])
        raise ValueError(f"{folder} holds several checkpoints, {names}; name one of them")
    return files[0] if files else None


def find_config(weights: Path) -> Path | None:
    """The settings file of a checkpoint, or None. The first existing one counts: the yaml or json
    with the checkpoint's name; the only yaml beside it; config.json, if there is no yaml."""
    folder = weights.parent
    for stem in (weights.stem, weights.name.split(".")[0]):
        for suffix in CONFIG_SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    yamls = [path for path in folder.iterdir() if path.suffix in CONFIG_SUFFIXES[:2]]
    others = [folder / "config.json"] if (folder / "config.json").is_file() else []
    return (yamls or others)[0] if len(yamls or others) == 1 else None


def read_config_file(path: Path) -> Json:
    """The settings in a yaml or json file. Raises ValueError if there are none."""
    return read_json(path) if path.suffix == ".json" else read_yaml(path)


def read_config(values: Mapping[str, object], keys: Collection[str]) -> VQGANConfig:
    """The VQGANConfig for the settings `ddconfig`, n_embed and embed_dim, which may be flat or
    nested as in taming-transformers' files. The setting `gumbel` decides if it is a GumbelVQ. If it
    is missing, the model's `target` decides; if that is missing, the `keys` of the arrays.

    Raises:
        ValueError: a setting is missing or not supported; the message names it.
    """
    model = _map(values, "model") or values
    model = _map(_map(model, "params"), "first_stage_config") or model  # a transformer's settings
    flat = {**(_map(model, "params") or model)}
    flat.update(_map(flat, "ddconfig"))
    target = model.get("target", model.get("class"))
    is_gumbel = flat.get("gumbel")
    if is_gumbel is None and isinstance(target, str):
        is_gumbel = target.endswith("GumbelVQ")
    if is_gumbel is None:
        is_gumbel = PROJECTION in keys
    if type(is_gumbel) is not bool:
        raise ValueError(f"gumbel must be true or false, not {brief(is_gumbel)}")
    return read_settings(flat, is_gumbel)


def _map(values: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} must hold settings, not {brief(section)}")
    return section


def write_config(config: VQGANConfig) -> Json:
    """The settings, nested as in taming-transformers' files. Raises ValueError if
    taming-transformers lacks one of our options."""
    flat = write_settings(config)
    params = {name: flat.pop(name) for name in ("embed_dim", "n_embed")}
    gumbel = GUMBEL_BESIDE if config.lookup == "classifier" else {}
    return {
        "model": {
            "target": TARGETS[config.lookup],
            "params": {**params, "ddconfig": flat, **BESIDE, **gumbel},
        }
    }


def read_checkpoint(path: Path) -> Arrays:
    """The arrays of a checkpoint, without the ones that only training uses. No code in the file is
    run.

    Raises:
        ValueError: the file is missing or damaged.
    """
    is_torch = path.suffix in TORCH_SUFFIXES
    arrays = read_torch_file(path) if is_torch else read_arrays(path.parent, path.name)[1]
    prefix = _prefix(arrays)
    of_vqgan = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
    return {
        key: array
        for key, array in of_vqgan.items()
        if not (key.startswith(TRAINING_PREFIXES) or key in TRAINING_KEYS)
    }


def _prefix(keys: Collection[str]) -> str:
    """The text before all keys of the VQGAN: DataParallel, torch.compile and models around it
    store one, such as module., _orig_mod. or first_stage_model. It is before the codebook's key,
    too. Of several VQGANs an average is taken, else the first."""
    ends = [(key, table) for table in TABLES for key in keys if f".{key}".endswith(f".{table}")]
    prefixes = sorted({key.removesuffix(table) for key, table in ends})
    return min(prefixes, key=lambda prefix: (bool(prefix), "ema" not in prefix), default="")


def respell(arrays: Arrays, config: VQGANConfig) -> Arrays:
    """The arrays, with the codebook under the usual key of this kind of model."""
    usual, other = TABLES if config.lookup == "nearest" else TABLES[::-1]
    if other in arrays and usual not in arrays:
        arrays[usual] = arrays.pop(other)
    return arrays


def write_checkpoint(
    folder: Path, settings: Mapping[str, object], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write model.safetensors and model.yaml into `folder`."""
    write_arrays(folder / WEIGHTS_FILE, arrays)
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    write_text(folder / CONFIG_FILE, text)

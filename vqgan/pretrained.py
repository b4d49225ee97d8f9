"""VQGANs in folders: ours, vqgan-jax's and taming-transformers' checkpoints, read and written.

python -m vqgan.pretrained SRC DST

Ours is config.json and model.safetensors. A folder that was made from another program's says so in
its config.json, under "origin", and is written back as it was.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqgan import published, taming
from vqgan.autoencoder import build
from vqgan.config import VQGANConfig
from vqgan.layers import Params
from weights.arrays import Arrays, Dtype, read_arrays, read_weights, shapes_of, write_weights
from weights.files import read_json
from weights.msgpack import write_msgpack
from weights.plans import Plan, gather, scatter

Format = Literal["pastel", "vqgan_jax", "taming"]
CONFIG_FILE, WEIGHTS_FILE, FLAX_FILE = "config.json", "model.safetensors", "flax_model.msgpack"
FLOATS = {"float64", "float32", "float16", "bfloat16"}
SHIPPED = Path(__file__).parent / "openmoji"
"""The tokenizer of the built-in data; its MODEL_CARD.md says how it was made."""


@dataclass(frozen=True)
class Origin:
    """What it takes to write a VQGAN back as another program had it."""

    format: Literal["vqgan_jax", "taming"]
    config: dict[str, Any]
    """Its settings."""
    arrays: str | dict[str, str]
    """The dtype of all its arrays; or of each, by key in their order, where they are not sorted or
    not of one dtype."""

    def __post_init__(self) -> None:
        if self.format not in ("vqgan_jax", "taming"):
            raise ValueError(f"origin.format {self.format!r:.60} is none of vqgan_jax and taming")
        kinds = self.arrays.values() if isinstance(self.arrays, dict) else [self.arrays]
        if not isinstance(self.config, dict) or not set(kinds) <= FLOATS:
            raise ValueError(f"origin.config must hold settings, origin.arrays be of {FLOATS}")


@dataclass(frozen=True)
class Release:
    """What a folder or a checkpoint holds."""

    format: Format
    config: VQGANConfig
    params: Params
    origin: Origin | None


def save(
    folder: str | Path,
    config: VQGANConfig,
    params: Params,
    dtype: Dtype = "float16",
    origin: Origin | None = None,
) -> None:
    """Write a folder of ours, the weights as `dtype`; they are read back as float32."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(path / WEIGHTS_FILE, params, dtype)
    values = dataclasses.asdict(config)
    if origin is not None:
        values["origin"] = dataclasses.asdict(origin)
    (path / CONFIG_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def load(
    path: str | Path = SHIPPED, config: Mapping[str, Any] | None = None
) -> tuple[VQGANConfig, Params]:
    """The configuration and float32 parameters of a folder of ours, a folder of vqgan-jax
    (config.json and flax_model.msgpack), or a checkpoint of taming-transformers: a .ckpt or
    .safetensors file, or a folder with one, with its yaml beside it or its settings in `config`.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one is damaged, or the weights are not those of the configuration.
    """
    found = read(path, config)
    return found.config, found.params


def read(path: str | Path, config: Mapping[str, Any] | None = None) -> Release:
    """Everything in a folder or checkpoint of any known format. Raises as `load` does."""
    path = Path(path)
    if path.name == FLAX_FILE:
        path = path.parent
    if path.is_file():
        return _read_taming(path, config)
    if (path / FLAX_FILE).is_file() and not _is_own(path):
        return _read_flax(path, config)
    weights = taming.find_weights(path) if path.is_dir() and not _is_own(path) else None
    if weights and (config is not None or taming.find_config(weights)):
        return _read_taming(weights, config)
    return _read_own(path, config)


def _is_own(folder: Path) -> bool:
    """Whether a folder's config.json is one of ours, or too damaged to tell."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        return not read_json(folder / CONFIG_FILE).keys() & {"ch", "ddconfig"}
    except ValueError:
        return (folder / WEIGHTS_FILE).is_file()


def _read_own(folder: Path, settings: Mapping[str, Any] | None) -> Release:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: a VQGAN is a folder with {CONFIG_FILE} and {WEIGHTS_FILE} "
                f"or {FLAX_FILE}, or a checkpoint of taming-transformers with its yaml"
            )
    path = folder / CONFIG_FILE
    if settings is not None:
        raise ValueError(f"{path} says what the VQGAN is; no other settings are taken")
    config, origin = _read_config(path)
    return Release(
        "pastel", config, read_weights(folder / WEIGHTS_FILE, _shapes(path, config)), origin
    )


def _read_config(path: Path) -> tuple[VQGANConfig, Origin | None]:
    known = {field.name for field in dataclasses.fields(VQGANConfig)}
    try:
        values = read_json(path)
        origin = Origin(**values.pop("origin")) if "origin" in values else None
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"has settings that this version does not know: {unknown}")
        for name, kind in get_type_hints(VQGANConfig).items():
            words = get_args(kind) if get_origin(kind) is Literal else ()
            if words and values.get(name, words[0]) not in words:
                raise ValueError(f"{name} {values[name]!r:.60} is none of {', '.join(words)}")
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return VQGANConfig(**{**values, **tuples}), origin
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no configuration of a VQGAN: {error}") from None


def _shapes(path: Path | str, config: VQGANConfig) -> Params:
    """The parameters of a configuration as shapes, without touching memory."""
    try:
        return jax.eval_shape(build(config).init, jax.random.key(0))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no configuration of a VQGAN: {reason}") from None


def _read_flax(folder: Path, settings: Mapping[str, Any] | None) -> Release:
    path = folder / CONFIG_FILE
    if settings is None and not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {folder}, which has {FLAX_FILE}")
    values = read_json(path) if settings is None else settings
    file, arrays = read_arrays(folder, FLAX_FILE)
    config = _settings(path, values, settings is None, {})
    kinds, params = _convert(file, arrays, "vqgan_jax", config)
    origin = Origin("vqgan_jax", json.loads(json.dumps(dict(values))), kinds)
    return Release("vqgan_jax", config, params, origin)


def _read_taming(file: Path, settings: Mapping[str, Any] | None) -> Release:
    if file.suffix not in taming.SUFFIXES:
        raise ValueError(f"{file} is no VQGAN; checkpoints end in {', '.join(taming.SUFFIXES)}")
    path = taming.find_config(file)
    if settings is None and path is None:
        raise ValueError(
            f"{file} needs the settings of its model: a yaml beside it, or config={{}}"
        )
    arrays = taming.read_checkpoint(file)
    values = taming.read_config_file(path) if path and settings is None else settings or {}
    config = _settings(path or file, values, settings is None, arrays)
    arrays = dict(sorted(taming.respell(arrays, config).items()))
    kinds, params = _convert(file, arrays, "taming", config)
    return Release("taming", config, params, Origin("taming", taming.write_config(config), kinds))


def _settings(
    path: Path, values: Mapping[str, Any], is_read: bool, arrays: Mapping[str, Any]
) -> VQGANConfig:
    try:
        return taming.read_config(values, arrays)
    except ValueError as error:
        name = path if is_read else "config"
        raise ValueError(f"{name} is no configuration of a VQGAN: {error}") from None


def _describe(arrays: Arrays) -> str | dict[str, str]:
    """`Origin.arrays` of these."""
    kinds = {key: array.dtype.name for key, array in arrays.items()}
    if len(set(kinds.values())) == 1 and list(kinds) == sorted(kinds):
        return next(iter(kinds.values()))
    return kinds


def _plan(format: Format, config: VQGANConfig) -> Plan:
    shapes = shapes_of(_shapes("config", config))
    if format == "taming":
        return published.torch_plan(shapes, config)
    if config.lookup == "classifier":
        raise ValueError("vqgan-jax has no GumbelVQ; only taming-transformers has")
    return published.flax_plan(shapes)


def _convert(
    file: Path, arrays: Arrays, format: Format, config: VQGANConfig
) -> tuple[str | dict[str, str], Params]:
    """`Origin.arrays` of these, and ours."""
    kinds = _describe(arrays)
    params = gather(file, arrays, _plan(format, config), np.float32)
    return kinds, unflatten_dict(params, sep="/")


def write(folder: str | Path, release: Release, to: Format, dtype: Dtype | None = None) -> None:
    """Write a folder of format `to`, its weights as `dtype`; by default as they were where they
    came from, and in a folder of ours as float32, in which they are what they were.

    Raises:
        ValueError: that format has no word for a setting, naming it.
    """
    folder, config, origin = Path(folder), release.config, release.origin
    if to == "pastel":
        save(folder, config, release.params, dtype or "float32", origin)
        return
    plan = _plan(to, config)
    if origin is None or origin.format != to:
        settings = (
            taming.write_config(config) if to == "taming" else published.flax_settings(config)
        )
        origin = Origin(to, settings, "float32")
    arrays = scatter(plan, flatten_dict(release.params, sep="/"))
    kinds = origin.arrays
    kinds = dict.fromkeys(sorted(arrays), kinds) if isinstance(kinds, str) else kinds
    if kinds.keys() != arrays.keys():
        raise ValueError("origin.arrays are not those of the model; name none, or convert it anew")
    arrays = {key: arrays[key].astype(dtype or kind, copy=False) for key, kind in kinds.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if to == "taming":
        taming.write_checkpoint(folder, origin.config, arrays)
        return
    write_msgpack(folder / FLAX_FILE, unflatten_dict(arrays, sep="/"))
    text = json.dumps(origin.config, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def convert(
    source: str | Path,
    folder: str | Path,
    to: Format | None = None,
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Format:
    """Write what `source` holds into `folder` as format `to`: by default ours for another
    program's, and for ours the one it came from. `settings` are those of a checkpoint.

    Raises:
        ValueError: `source` cannot be read, or `to` cannot say what it is.
    """
    release = read(source, settings)
    came_from = release.origin.format if release.origin else None
    to = to or (came_from if release.format == "pastel" else "pastel")
    if to is None:
        raise ValueError(f"{source} does not come from another program; name a format with --to")
    write(folder, release, to, dtype)
    return to


ABOUT = "Convert a VQGAN between our folders, vqgan-jax's and taming-transformers' checkpoints."


@dataclass(frozen=True)
class ConvertConfig:
    """From where, to where, into what."""

    source: str = field(
        metadata={"nargs": None, "positional": True, "help": "Folder or checkpoint to read."}
    )
    """A folder of ours or of vqgan-jax, or a .ckpt or .safetensors of taming-transformers."""
    out: str = field(metadata={"nargs": None, "positional": True, "help": "New folder to write."})
    """It must not be there, or be empty."""
    to: Format | None = None
    """Format to write; default: pastel for another program's, and for a folder of ours the one it
    came from."""
    ddconfig: str | None = None
    """Yaml or JSON with the settings of a taming-transformers checkpoint; default: the one beside
    it."""
    dtype: Dtype | None = None
    """Precision of the stored weights; default: float32 in a folder of ours, else as they were."""


if __name__ == "__main__":
    from config import run
    from data.folders import new_folder

    def main(config: ConvertConfig) -> None:
        """Convert, whole or not at all."""
        with new_folder(Path(config.out)) as folder:
            settings = taming.read_config_file(Path(config.ddconfig)) if config.ddconfig else None
            to = convert(config.source, folder, config.to, config.dtype, settings)
        print(f"{config.out}: {config.source} as {to}", file=sys.stderr)

    run(main, ConvertConfig, prog="python -m vqgan.pretrained", about=ABOUT)

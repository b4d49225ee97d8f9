"""Read, write and convert VQGANs: our folders, vqgan-jax's, and taming-transformers' checkpoints.

python -m vqgan.pretrained SRC DST
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float

from common import clone
from common.json_files import read_json
from published import taming, taming_layout
from vqgan.autoencoder import build
from vqgan.config import VQGANConfig
from vqgan.layers import Params
from weights import releases
from weights.arrays import Arrays, Dtype, read_arrays, read_weights, shapes_of
from weights.plans import Plan, gather
from weights.releases import CONFIG_FILE, FLAX_FILE, WEIGHTS_FILE, Origin, Program
from weights.settings import configuring, read_own

Format = Literal["pastel", "vqgan_jax", "taming"]
WHAT = "a VQGAN"
SHIPPED = Path(__file__).parent / "openmoji"
"""The VQGAN of the OpenMoji data; its MODEL_CARD.md says how it was made."""
PROGRAMS = {
    "vqgan_jax": Program(
        taming.read_config,
        taming_layout.flax_settings,
        lambda config, shapes, scanned: taming_layout.flax_plan(shapes, config),
        releases.write_flax,
    ),
    "taming": Program(
        taming.read_config,
        taming.write_config,
        lambda config, shapes, scanned: taming_layout.torch_plan(shapes, config),
        taming.write_checkpoint,
    ),
}


@dataclass(frozen=True)
class Release:
    """The content of a folder or a checkpoint."""

    format: str
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
    releases.save(Path(folder), dataclasses.asdict(config), params, dtype, origin)


def load(
    path: str | Path = SHIPPED, config: Mapping[str, object] | None = None
) -> tuple[VQGANConfig, Params]:
    """The configuration and float32 parameters of a folder of ours, a folder of vqgan-jax
    (config.json and flax_model.msgpack), or a checkpoint of taming-transformers: a .ckpt or
    .safetensors file, or a folder with one, with its yaml beside it or its settings in `config`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the weights do not fit the configuration.
    """
    opened = read(path, config)
    return opened.config, opened.params


def codebook(path: str | Path) -> Float[Array, "k c"]:
    """The vectors of all codes, in the space where codes are compared. Raises as `load` does."""
    config, params = load(path)
    return build(config).codes(params)


def read(path: str | Path, config: Mapping[str, object] | None = None) -> Release:
    """The whole content of a folder or checkpoint of any known format. Raises as `load` does."""
    path = clone.find(path)
    if path.name == FLAX_FILE:
        path = path.parent
    if path.is_file():
        return _read_taming(path, config)
    _check_kind(path)
    if (path / FLAX_FILE).is_file() and not _is_own(path):
        return _read_flax(path, config)
    weights = taming.find_weights(path) if path.is_dir() and not _is_own(path) else None
    if weights and (config is not None or taming.find_config(weights)):
        return _read_taming(weights, config)
    return _read_own(path, config)


def _is_own(folder: Path) -> bool:
    """True if a folder's config.json is ours, or damaged."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        ours = {field.name for field in dataclasses.fields(VQGANConfig)}
        return bool(read_json(folder / CONFIG_FILE).keys() & ours)
    except ValueError:
        return (folder / WEIGHTS_FILE).is_file()


def _read_own(folder: Path, settings: Mapping[str, object] | None) -> Release:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: a VQGAN is a folder with {CONFIG_FILE} and {WEIGHTS_FILE} "
                f"or {FLAX_FILE}, or a checkpoint of taming-transformers with its yaml"
            )
    path = folder / CONFIG_FILE
    if settings is not None:
        raise ValueError(f"{path} has the settings of the VQGAN; other settings are not accepted")
    with configuring(path, WHAT):
        values = read_json(path)
        origin = releases.read_origin(values, PROGRAMS)
        values.pop("origin", None)
        config = read_own(VQGANConfig, values)
        shapes = _shapes(config)
    return Release("pastel", config, read_weights(folder / WEIGHTS_FILE, shapes), origin)


def _check_kind(folder: Path) -> None:
    """Raise ValueError for a folder that is not a VQGAN's; the message names its kind."""
    inside = folder / "vqgan"
    more = f"; its VQGAN is {inside}" if inside.is_dir() else ""
    if (folder / "config.yaml").is_file() and not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} is a run, not a VQGAN{more or ', and has none yet'}")
    try:
        values = read_json(folder / CONFIG_FILE)
    except ValueError:  # a missing or damaged file is reported where it is read
        return
    is_ours = isinstance(values.get("model"), dict) and "sampling" in values
    if is_ours or values.get("model_type") in ("dallebart", "bart"):
        raise ValueError(f"{folder} is a transformer, not a VQGAN{more}")


def _shapes(config: VQGANConfig) -> Params:
    """The shapes of a configuration's parameters; no memory is allocated."""
    return jax.eval_shape(build(config).init, jax.random.key(0))


def _read_flax(folder: Path, settings: Mapping[str, object] | None) -> Release:
    path = folder / CONFIG_FILE
    if settings is None and not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {folder}, which has {FLAX_FILE}")
    values = read_json(path) if settings is None else settings
    file, arrays = read_arrays(folder, FLAX_FILE)
    with configuring(path if settings is None else "config", WHAT):
        config = taming.read_config(values, ())
        plan = plan_of("vqgan_jax", config)
    origin = Origin("vqgan_jax", json.loads(json.dumps(dict(values))), releases.describe(arrays))
    return _release(origin, config, gather(file, arrays, plan, np.float32))


def _read_taming(file: Path, settings: Mapping[str, object] | None) -> Release:
    if file.suffix not in taming.SUFFIXES:
        raise ValueError(f"{file} is not a VQGAN; checkpoints end in {', '.join(taming.SUFFIXES)}")
    path = taming.find_config(file)
    if settings is None and path is None:
        raise ValueError(
            f"{file} needs the settings of its model: a yaml beside it, or config={{}}"
        )
    arrays = taming.read_checkpoint(file)
    values = taming.read_config_file(path) if path and settings is None else settings or {}
    with configuring(path if path and settings is None else "config", WHAT):
        config = taming.read_config(values, arrays)
        plan = plan_of("taming", config)
    arrays = dict(sorted(taming.respell(arrays, config).items()))
    origin = Origin("taming", taming.write_config(config), releases.describe(arrays))
    return _release(origin, config, gather(file, arrays, plan, np.float32))


def _release(origin: Origin, config: VQGANConfig, params: Arrays) -> Release:
    return Release(origin.format, config, unflatten_dict(params, sep="/"), origin)


def plan_of(format: str, config: VQGANConfig) -> Plan:
    """The array in another program's file for each parameter of a configuration."""
    return PROGRAMS[format].plan(config, shapes_of(_shapes(config)), False)


def write(folder: str | Path, release: Release, to: str, dtype: Dtype | None = None) -> None:
    """Write a folder of format `to`, its weights as `dtype`. The default dtype is the origin's or,
    in a folder of ours, float32, which loses nothing.

    Raises:
        ValueError: the format has no option for a setting; the message names it.
    """
    folder, config, origin = Path(folder), release.config, release.origin
    if to == "pastel":
        save(folder, config, release.params, dtype or "float32", origin)
        return
    origin = origin if origin and origin.format == to else None
    releases.export(folder, PROGRAMS[to], config, release.params, origin, dtype)


def resize(config: VQGANConfig, image_size: int) -> VQGANConfig:
    """The same layers on pictures of another size, with another number of tokens.

    Raises:
        ValueError: attention would move to other layers, or the size does not fit.
    """
    sides = [side * image_size / config.image_size for side in config.attention_resolutions]
    if any(side % 1 for side in sides):
        raise ValueError(
            f"image_size {image_size} does not fit attention at {config.attention_resolutions} "
            f"places of {config.image_size} pixels; try {2 * config.image_size}"
        )
    attention = tuple(int(side) for side in sides)
    return dataclasses.replace(config, image_size=image_size, attention_resolutions=attention)


def convert(
    source: str | Path,
    folder: str | Path,
    to: Format | None = None,
    dtype: Dtype | None = None,
    settings: Mapping[str, object] | None = None,
    image_size: int | None = None,
    tried_codes: int | None = None,
) -> str:
    """Write the content of `source` into `folder` as format `to`, by default ours for another
    program's and the origin's for ours. `settings` are those of a checkpoint. With an `image_size`
    the same weights are written for pictures of that size, by default as ours; `tried_codes` are
    those of its encoder. Returns the format.

    Raises:
        ValueError: `source` cannot be read, or `to` cannot express it.
    """
    release = read(source, settings)
    config = release.config
    if image_size is not None:
        config = resize(config, image_size)
    if tried_codes is not None:
        config = dataclasses.replace(config, tried_codes=tried_codes)
    if config != release.config:
        release, to = dataclasses.replace(release, config=config, origin=None), to or "pastel"
    format = releases.target(clone.find(source), release.format == "pastel", release.origin, to)
    write(folder, release, format, dtype)
    return format


@dataclass(frozen=True)
class ConvertConfig:
    """Source, destination and format."""

    source: str = field(
        metadata={"nargs": None, "positional": True, "help": "Folder or checkpoint to read."}
    )
    """A folder of ours or of vqgan-jax, or a .ckpt or .safetensors of taming-transformers."""
    out: str = field(metadata={"nargs": None, "positional": True, "help": "New folder to write."})
    """The folder must not exist, or be empty."""
    to: Format | None = None
    """Format to write; default: pastel for another program's, and for a folder of ours the one it
    came from."""
    ddconfig: str | None = None
    """Yaml or JSON with the settings of a taming-transformers checkpoint; default: the one beside
    it."""
    dtype: Dtype | None = None
    """Precision of the stored weights; default: float32 in a folder of ours, else as they were."""
    image_size: int | None = None
    """Write the same weights for pictures of so many pixels a side: all layers are convolutions or
    attention. 128 instead of 64 makes four times the tokens."""
    tried_codes: int | None = None
    """Codes that the new folder's encoder tries at each place, to keep the one that reconstructs
    the picture best."""


if __name__ == "__main__":
    from command_line.parser import run
    from common.files import new_folder

    def main(config: ConvertConfig) -> None:
        """Convert, whole or not at all."""
        with new_folder(Path(config.out)) as folder:
            settings = taming.read_config_file(Path(config.ddconfig)) if config.ddconfig else None
            to = convert(
                *(config.source, folder, config.to, config.dtype, settings),
                *(config.image_size, config.tried_codes),
            )
        print(f"{config.out}: {config.source} as {to}", file=sys.stderr)

    run(main, ConvertConfig, prog="python -m vqgan.pretrained", about=__doc__ or "")

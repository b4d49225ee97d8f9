"""Transformers in folders: our release folders, DALL·E mini's and BART's, read and written.

python -m model.pretrained SRC DST

Ours is config.json and model.safetensors. A folder that was made from another program's says so in
its config.json, under "origin", and is written back as it was.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from model import bart, dalle_mini, transformer
from model.config import ModelConfig, SamplingConfig
from model.transformer import Params
from weights.arrays import (
    Arrays,
    Dtype,
    read_arrays,
    read_weights,
    shapes_of,
    write_arrays,
    write_weights,
)
from weights.files import read_json
from weights.msgpack import write_msgpack
from weights.plans import Plan, gather, scatter
from weights.settings import read_fields

Format = Literal["pastel", "dalle_mini", "bart"]
CONFIG_FILE, WEIGHTS_FILE, FLAX_FILE = "config.json", "model.safetensors", "flax_model.msgpack"
KINDS = {"float64", "float32", "float16", "bfloat16"}
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
SAMPLING = {
    "dalle_mini": SamplingConfig(guidance_scale=10.0, temperature=1.0),
    "bart": SamplingConfig(guidance_scale=1.0, temperature=0.0),
}
"""How the published ones are drawn from; their folders do not say."""


@dataclass(frozen=True)
class Origin:
    """What it takes to write a folder back as another program had it."""

    format: Format
    config: dict[str, Any]
    """Its config.json."""
    arrays: str | dict[str, str]
    """The dtype of all its arrays; or of each, by key in their order, where they are not sorted or
    not of one dtype."""
    scanned: bool = False
    """Whether a stack's layers are one array."""


@dataclass(frozen=True)
class Release:
    """What a folder holds."""

    format: Format
    model: ModelConfig
    sampling: SamplingConfig
    params: Params
    origin: Origin | None


def load(folder: str | Path, dtype: Any = None) -> tuple[ModelConfig, Params]:
    """The configuration and parameters in a folder of ours, of DALL·E mini (config.json and
    flax_model.msgpack) or of BART (config.json and model.safetensors), as `dtype` or float32.

    Raises:
        ValueError: a file is missing, damaged or does not fit the other, naming file and key.
    """
    found = read(folder, dtype)
    return found.model, found.params


def load_sampling(folder: str | Path) -> SamplingConfig:
    """How to draw from the model in a folder. Raises ValueError as `load` does."""
    path = Path(folder) / CONFIG_FILE
    values = read_json(path)
    kind = _format(Path(folder), values)
    return SAMPLING[kind] if kind in SAMPLING else _read_own(path, values)[1]


def save(
    folder: str | Path,
    model: ModelConfig,
    sampling: SamplingConfig,
    params: Params,
    dtype: Dtype = "float32",
    origin: Origin | None = None,
) -> None:
    """Write a folder of ours, the weights as `dtype`."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(path / WEIGHTS_FILE, params, dtype)
    config: dict[str, Any] = {
        "model": dataclasses.asdict(model),
        "sampling": dataclasses.asdict(sampling),
    }
    if origin is not None:
        config["origin"] = dataclasses.asdict(origin)
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read(folder: str | Path, dtype: Any = None) -> Release:
    """Everything in a folder of any known format. Raises ValueError as `load` does."""
    folder = Path(folder)
    path = folder / CONFIG_FILE
    values = read_json(path)
    kind = _format(folder, values)
    if kind != "pastel":
        return _read_foreign(folder, kind, values, np.float32 if dtype is None else dtype)
    model, sampling, origin = _read_own(path, values)
    params = read_weights(folder / WEIGHTS_FILE, _shapes(path, model))
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Release(kind, model, sampling, params, origin)


def _format(folder: Path, values: Mapping[str, Any]) -> Format:
    """What a folder with such a config.json is. Raises ValueError when it is none of ours."""
    said = values.get("model_type")
    if isinstance(values.get("model"), dict):
        return "pastel"
    if said == "dallebart" or (said is None and _exists(folder, FLAX_FILE)):
        return "dalle_mini"
    if said != "bart":
        raise ValueError(
            f"{folder / CONFIG_FILE} is no configuration of this transformer: it has neither "
            f"'model', as ours have, nor the model_type dallebart or bart, but {said!r:.60}"
        )
    pickles = [file.name for file in sorted(folder.glob("pytorch_model*.bin"))]
    if pickles and not _exists(folder, WEIGHTS_FILE):
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which could run anything and is never opened; "
            f"save the model as {WEIGHTS_FILE} with transformers"
        )
    return "bart"


def _exists(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.index.json").is_file()


def _read_own(
    path: Path, values: Mapping[str, Any]
) -> tuple[ModelConfig, SamplingConfig, Origin | None]:
    try:
        origin = values.get("origin")
        if origin is not None and origin["format"] not in SAMPLING:
            raise ValueError(f"origin.format {origin['format']!r:.60} is none of {list(SAMPLING)}")
        model = ModelConfig(**_own_fields(ModelConfig, values["model"]))
        sampling = SamplingConfig(**_own_fields(SamplingConfig, values["sampling"]))
        return model, sampling, None if origin is None else Origin(**origin)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of this transformer: {error}") from None


def _own_fields(config_class: type, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.60} is no {config_class.__name__}")
    known = {one.name: (one.name, one.default) for one in dataclasses.fields(config_class)}
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(f"has settings that this version does not know: {unknown}")
    return read_fields(values, known)


def _read_foreign(folder: Path, kind: Format, values: dict[str, Any], dtype: Any) -> Release:
    file, arrays = read_arrays(folder, FLAX_FILE if kind == "dalle_mini" else WEIGHTS_FILE)
    scanned = kind == "dalle_mini" and dalle_mini.is_scanned(arrays)
    path = folder / CONFIG_FILE
    try:
        if kind == "bart":
            model, arrays = bart.read_config(values), bart.untie(file, arrays)
        else:
            model = dalle_mini.read_config(values, arrays)
    except ValueError as error:
        raise ValueError(f"{path} is no configuration of this transformer: {error}") from None
    plan = _plan(path, kind, model, scanned)
    origin = Origin(kind, values, _describe(arrays), scanned)
    params = unflatten_dict(gather(file, arrays, plan, dtype), sep="/")
    return Release(kind, model, SAMPLING[kind], params, origin)


def _plan(path: Path, kind: Format, model: ModelConfig, scanned: bool) -> Plan:
    shapes = shapes_of(_shapes(path, model))
    if kind == "bart":
        return bart.plan(shapes)
    return dalle_mini.plan(model, shapes, scanned)


def _shapes(path: Path, model: ModelConfig) -> Params:
    """The parameters of a configuration as shapes, without touching memory."""
    try:
        return jax.eval_shape(transformer.build(model).init, jax.random.key(0))
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no configuration of this transformer: {reason}") from None


def _describe(arrays: Arrays) -> str | dict[str, str]:
    """`Origin.arrays` of these."""
    kinds = {key: array.dtype.name for key, array in arrays.items()}
    if len(set(kinds.values())) == 1 and list(kinds) == sorted(kinds):
        return next(iter(kinds.values()))
    return kinds


def write(folder: str | Path, release: Release, to: Format, dtype: Dtype | None = None) -> None:
    """Write a folder of format `to`, its weights as `dtype`; by default as they were where they
    came from.

    Raises:
        ValueError: that format has no word for a setting of the model, naming it.
    """
    folder, origin = Path(folder), release.origin
    if to == "pastel":
        save(folder, release.model, release.sampling, release.params, dtype or "float32", origin)
        return
    if origin is None or origin.format != to:
        origin = _invent(to, release.model)
    plan = _plan(folder / CONFIG_FILE, to, release.model, origin.scanned)
    arrays = scatter(plan, flatten_dict(release.params, sep="/"))
    kinds = origin.arrays
    kinds = dict.fromkeys(sorted(arrays), kinds) if isinstance(kinds, str) else kinds
    if kinds.keys() != arrays.keys() or not {*kinds.values()} <= KINDS:
        raise ValueError("what config.json says under origin.arrays does not fit the model")
    arrays = {key: arrays[key].astype(dtype or kind, copy=False) for key, kind in kinds.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if to == "dalle_mini":
        write_msgpack(folder / FLAX_FILE, unflatten_dict(arrays, sep="/"))
    else:
        write_arrays(folder / WEIGHTS_FILE, arrays, metadata={"format": "pt"})
    text = json.dumps(origin.config, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def _invent(to: Format, model: ModelConfig) -> Origin:
    """How another program would hold a model that does not come from it."""
    if to == "bart":
        return Origin(to, bart.write_config(model), "float32")
    return Origin(to, dalle_mini.write_config(model), "float32", dalle_mini.scannable(model))


def convert(
    source: str | Path, folder: str | Path, to: Format | None = None, dtype: Dtype | None = None
) -> Format:
    """Write what `source` holds into `folder` as format `to`: by default ours for another
    program's, and for ours the one it came from. Tokenizer files and vqgan/ are copied along.

    Raises:
        ValueError: `source` cannot be read, or `to` cannot say what it is.
    """
    source, folder = Path(source), Path(folder)
    release = read(source)
    came_from = release.origin.format if release.origin else None
    to = to or (came_from if release.format == "pastel" else "pastel")
    if to is None:
        raise ValueError(f"{source} does not come from another program; name a format with --to")
    write(folder, release, to, dtype)
    _copy_beside(source, folder, to)
    return to


def _copy_beside(source: Path, folder: Path, to: Format) -> None:
    """The tokenizer into tokenizer/, where generate.py looks, or beside the weights, where other
    programs look; and the VQGAN."""
    target = folder / "tokenizer" if to == "pastel" else folder
    for start in (source, source / "tokenizer"):
        for name in TOKENIZER_FILES:
            if (start / name).is_file():
                target.mkdir(exist_ok=True)
                shutil.copyfile(start / name, target / name)
    if (source / "vqgan").is_dir():
        shutil.copytree(source / "vqgan", folder / "vqgan")


ABOUT = "Convert a transformer between our folders, DALL·E mini's and BART's."


@dataclass(frozen=True)
class ConvertConfig:
    """From where, to where, into what."""

    source: str = field(metadata={"nargs": None, "positional": True, "help": "Folder to read."})
    """A release folder of ours, or one of DALL·E mini's or BART's."""
    out: str = field(metadata={"nargs": None, "positional": True, "help": "New folder to write."})
    """It must not be there, or be empty."""
    to: Format | None = None
    """Format to write; default: pastel for another program's folder, and for a folder of ours the
    one it came from."""
    dtype: Dtype | None = None
    """Precision of the stored weights; default: float32 in a folder of ours, else as they were."""


if __name__ == "__main__":
    from config import run
    from data.folders import new_folder

    def main(config: ConvertConfig) -> None:
        """Convert, whole or not at all."""
        with new_folder(Path(config.out)) as folder:
            to = convert(config.source, folder, config.to, config.dtype)
        print(f"{config.out}: {config.source} as {to}", file=sys.stderr)

    run(main, ConvertConfig, prog="python -m model.pretrained", about=ABOUT)

"""Read, write and convert transformers: our release folders, DALL·E mini's and BART's.

python -m model.pretrained SRC DST
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

from common import clone
from common.copying import copy_file, copy_folder
from common.json_files import read_json
from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.transformer import Params
from published import bart, dalle_mini
from weights import releases
from weights.arrays import Arrays, Dtype, read_arrays, read_weights, shapes_of, write_arrays
from weights.plans import gather
from weights.releases import CONFIG_FILE, FLAX_FILE, WEIGHTS_FILE, Origin, Program
from weights.settings import configuring, read_own

Format = Literal["pastel", "dalle_mini", "bart"]
WHAT = "this transformer"
NOT_THE_FUNCTION = {"remat", "unroll", "dropout", "attention_dropout", "activation_dropout"}
"""Settings that do not change the function of the weights."""
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
SAMPLING = {
    "dalle_mini": SamplingConfig(guidance_scale=10.0, temperature=1.0),
    "bart": SamplingConfig(guidance_scale=1.0, temperature=0.0),
}
"""Sampling settings of published models; their folders hold none."""


def _write_bart(folder: Path, settings: Mapping[str, object], arrays: Arrays) -> None:
    write_arrays(folder / WEIGHTS_FILE, arrays, metadata={"format": "pt"})
    releases.write_settings(folder, settings)


PROGRAMS = {
    "dalle_mini": Program(
        dalle_mini.read_config,
        dalle_mini.write_config,
        dalle_mini.plan,
        releases.write_flax,
        dalle_mini.scannable,
    ),
    "bart": Program(
        lambda values, keys: bart.read_config(values),
        bart.write_config,
        lambda model, shapes, scanned: bart.plan(shapes),
        _write_bart,
    ),
}


@dataclass(frozen=True)
class Release:
    """The content of a folder."""

    format: Format
    model: ModelConfig
    sampling: SamplingConfig
    params: Params
    origin: Origin | None


def load(folder: str | Path, dtype: DTypeLike | None = None) -> tuple[ModelConfig, Params]:
    """The configuration and parameters in a folder of ours, of DALL·E mini (config.json and
    flax_model.msgpack) or of BART (config.json and model.safetensors), as `dtype` or float32.

    Raises:
        ValueError: a file is missing, damaged or does not fit the others; the message names file
            and key.
    """
    release = read(folder, dtype)
    return release.model, release.params


def save(
    folder: str | Path,
    model: ModelConfig,
    sampling: SamplingConfig,
    params: Params,
    dtype: Dtype = "float32",
    origin: Origin | None = None,
) -> None:
    """Write a folder of ours, the weights as `dtype`."""
    values = {"model": dataclasses.asdict(model), "sampling": dataclasses.asdict(sampling)}
    releases.save(Path(folder), values, params, dtype, origin)


def read(folder: str | Path, dtype: DTypeLike | None = None) -> Release:
    """The whole content of a folder of any known format. Raises ValueError as `load` does."""
    folder = clone.find(folder)
    path = folder / CONFIG_FILE
    values = read_json(path)
    program = _format(folder, values)
    if program != "pastel":
        return _read_foreign(folder, program, values, np.float32 if dtype is None else dtype)
    with configuring(path, WHAT):
        origin = releases.read_origin(values, PROGRAMS)
        model = read_own(ModelConfig, values["model"])
        sampling = read_own(SamplingConfig, values.get("sampling"))
        shapes = transformer.build(model).shapes
    params = read_weights(folder / WEIGHTS_FILE, shapes)
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Release(program, model, sampling, params, origin)


def _format(folder: Path, values: Mapping[str, object]) -> Format:
    """The format of a folder by its config.json. Raises ValueError if it is unknown."""
    model_type = values.get("model_type")
    if values.keys() & {"codebook_size", "n_embed", "ddconfig"}:
        raise ValueError(
            f"{folder} is a VQGAN, which turns pictures into tokens and back; name a "
            "transformer; --vqgan names the VQGAN"
        )
    if isinstance(values.get("model"), dict):
        return "pastel"
    if model_type == "dallebart" or (model_type is None and _exists(folder, FLAX_FILE)):
        return "dalle_mini"
    if model_type != "bart":
        raise ValueError(
            f"{folder / CONFIG_FILE} is not a configuration of this transformer: it has neither "
            f"'model', as ours have, nor the model_type dallebart or bart, but {model_type!r:.60}"
        )
    pickles = [file.name for file in sorted(folder.glob("pytorch_model*.bin"))]
    if pickles and not _exists(folder, WEIGHTS_FILE):
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which can run any code and is never opened; "
            f"save the model as {WEIGHTS_FILE} with transformers"
        )
    return "bart"


def _exists(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.index.json").is_file()


def _read_foreign(
    folder: Path, format_name: Format, values: dict[str, object], dtype: DTypeLike
) -> Release:
    file, arrays = read_arrays(folder, FLAX_FILE if format_name == "dalle_mini" else WEIGHTS_FILE)
    scanned = format_name == "dalle_mini" and dalle_mini.is_scanned(arrays)
    arrays = bart.untie(file, arrays) if format_name == "bart" else arrays
    program = PROGRAMS[format_name]
    with configuring(folder / CONFIG_FILE, WHAT):
        model = program.read_config(values, arrays)
        plan = program.plan(model, shapes_of(transformer.build(model).shapes), scanned)
    origin = Origin(format_name, values, releases.describe(arrays), scanned)
    params = unflatten_dict(gather(file, arrays, plan, dtype), sep="/")
    return Release(format_name, model, SAMPLING[format_name], params, origin)


def write(folder: str | Path, release: Release, to: str, dtype: Dtype | None = None) -> None:
    """Write a folder of format `to`, its weights as `dtype`. The default dtype is the origin's or,
    in a folder of ours, float32.

    Raises:
        ValueError: the format has no option for a setting of the model; the message names it.
    """
    folder, model, origin = Path(folder), release.model, release.origin
    if to == "pastel":
        save(folder, model, release.sampling, release.params, dtype or "float32", origin)
        return
    origin = origin if origin and origin.format == to else None
    releases.export(folder, PROGRAMS[to], model, release.params, origin, dtype, NOT_THE_FUNCTION)


def convert(
    source: str | Path, folder: str | Path, to: Format | None = None, dtype: Dtype | None = None
) -> str:
    """Write the content of `source` into `folder` as format `to`, by default ours for another
    program's and the origin's for ours. Tokenizer files and vqgan/ are copied along. Returns the
    format.

    Raises:
        ValueError: `source` cannot be read, or `to` cannot express it.
    """
    source, folder = clone.find(source), Path(folder)
    release = read(source)
    format = releases.target(source, release.format == "pastel", release.origin, to)
    write(folder, release, format, dtype)
    _copy_beside(source, folder, format)
    return format


def _copy_beside(source: Path, folder: Path, to: str) -> None:
    """Copy the tokenizer and the VQGAN: into tokenizer/, where generate.py looks, or beside the
    weights, where other programs look."""
    target = folder / "tokenizer" if to == "pastel" else folder
    for start in (source, source / "tokenizer"):
        for name in TOKENIZER_FILES:
            if (start / name).is_file():
                target.mkdir(exist_ok=True)
                copy_file(start / name, target / name, source)
    if (source / "vqgan").is_dir():
        copy_folder(source / "vqgan", folder / "vqgan", source)


@dataclass(frozen=True)
class ConvertConfig:
    """Source, destination and format."""

    source: str = field(metadata={"nargs": None, "positional": True, "help": "Folder to read."})
    """A release folder of ours, or one of DALL·E mini's or BART's."""
    out: str = field(metadata={"nargs": None, "positional": True, "help": "New folder to write."})
    """The folder must not exist, or be empty."""
    to: Format | None = None
    """Format to write; default: pastel for another program's folder, and for a folder of ours the
    one it came from."""
    dtype: Dtype | None = None
    """Precision of the stored weights; default: float32 in a folder of ours, else as they were."""


if __name__ == "__main__":
    from command_line.parser import run
    from common.files import new_folder

    def main(config: ConvertConfig) -> None:
        """Convert, whole or not at all."""
        with new_folder(Path(config.out)) as folder:
            to = convert(config.source, folder, config.to, config.dtype)
        print(f"{config.out}: {config.source} as {to}", file=sys.stderr)

    run(main, ConvertConfig, prog="python -m model.pretrained", about=__doc__ or "")

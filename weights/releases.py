"""Folders with a configuration and weights: Pastel's, and other programs', each with a `Program`.

A folder of Pastel holds config.json and model.safetensors. If it was made from another program's
folder, "origin" in its config.json keeps that program's settings, and an export writes them back.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from common.files import write_text
from common.json_files import Json
from weights.arrays import Arrays, Dtype, Shapes, shapes_of, stored_as, write_weights
from weights.msgpack import write_msgpack
from weights.plans import Plan, file_shapes, scatter
from weights.settings import Fields, read_fields

CONFIG_FILE, WEIGHTS_FILE, FLAX_FILE = "config.json", "model.safetensors", "flax_model.msgpack"
KINDS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Origin:
    """The other program's form of a model, with which it is written back."""

    format: str
    config: Json
    """The other program's settings."""
    arrays: str | dict[str, str]
    """The dtype of all its arrays; or one for each key in file order, if they are not sorted or
    have several dtypes."""
    scanned: bool = False
    """True if a stack's layers are one array."""


@dataclass(frozen=True)
class Program:
    """Another program's format: functions of our configuration of a model."""

    read_config: Callable[[Json, Collection[str]], Any]
    """Our configuration, from its settings and the keys of its arrays."""
    write_config: Callable[[Any], Json]
    """Its settings, from our configuration. Raises ValueError if it has no option for one of
    ours."""
    plan: Callable[[Any, Shapes, bool], Plan]
    """The plan of its file, from our configuration, our shapes and whether its layers are
    scanned."""
    write: Callable[[Path, Json, Arrays], None]
    """Writes its files into a folder, from its settings and arrays."""
    scannable: Callable[[Any], bool] = lambda config: False
    """True if a stack's layers can be one array."""


def read_origin(values: Mapping[str, object], formats: Collection[str]) -> Origin | None:
    """The origin in the settings of a folder of ours. Raises ValueError for a damaged one."""
    origin = values.get("origin")
    if origin is None:
        return None
    known = {field.name for field in dataclasses.fields(Origin)}
    if not isinstance(origin, dict) or not origin.keys() <= known:
        raise ValueError(f"origin must hold {', '.join(sorted(known))}, not {origin!r:.60}")
    names: Fields = {"format": ("format", ""), "scanned": ("scanned", False)}
    fields = read_fields(origin, names)
    if fields["format"] not in formats:
        raise ValueError(
            f"origin.format {fields['format']!r:.60} is not one of {', '.join(formats)}"
        )
    config, arrays = origin.get("config"), origin.get("arrays")
    if not isinstance(config, dict):
        raise ValueError(f"origin.config must hold settings, not {config!r:.60}")
    kinds = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
    if odd := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"origin.arrays must be of {', '.join(KINDS)}, not {odd[0]!r:.60}")
    return Origin(**fields, config=config, arrays=arrays)  # type: ignore[arg-type]


def describe(arrays: Arrays) -> str | dict[str, str]:
    """`Origin.arrays` of these arrays."""
    kinds = {key: array.dtype.name for key, array in arrays.items()}
    if len(set(kinds.values())) == 1 and list(kinds) == sorted(kinds):
        return next(iter(kinds.values()))
    return kinds


def save(
    folder: Path,
    values: Json,
    params: Mapping[str, object],
    dtype: Dtype,
    origin: Origin | None,
) -> None:
    """Write a folder of ours with these settings, the weights as `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS_FILE, params, dtype)
    if origin is not None:
        values = {**values, "origin": dataclasses.asdict(origin)}
    write_settings(folder, values, indent=1)


def export(
    folder: Path,
    program: Program,
    config: object,
    params: Mapping[str, object],
    origin: Origin | None,
    dtype: Dtype | None,
    ignored: Collection[str] = (),
) -> None:
    """Write another program's folder, the weights as `dtype`; by default the origin's, else
    float32. Only settings in `ignored` may differ from the origin's.

    Raises:
        ValueError: the program has no option for a setting, or `origin` does not fit the model.
    """
    invented = Origin("", program.write_config(config), "float32", program.scannable(config))
    source = origin or invented
    plan = program.plan(config, shapes_of(params), source.scanned)
    if origin is not None:
        _check_origin(program.read_config(origin.config, file_shapes(plan)), config, ignored)
    arrays = scatter(plan, flatten_dict(params, sep="/"))
    kinds = source.arrays
    kinds = dict.fromkeys(sorted(arrays), kinds) if isinstance(kinds, str) else kinds
    if kinds.keys() != arrays.keys():
        odd = sorted(kinds.keys() ^ arrays.keys())[0]
        raise ValueError(f"origin.arrays in {CONFIG_FILE} are not the model's, first {odd}")
    folder.mkdir(parents=True, exist_ok=True)
    stored = {key: stored_as(key, arrays[key], dtype or kind) for key, kind in kinds.items()}
    program.write(folder, source.config, stored)


def _check_origin(origin_config: Any, config: Any, ignored: Collection[str]) -> None:
    """Raise ValueError for a setting that has changed since the model was read from another
    program."""
    for field in dataclasses.fields(config):
        now, then = getattr(config, field.name), getattr(origin_config, field.name)
        if field.name not in ignored and now != then:
            raise ValueError(
                f"{field.name} is {now}, but {then} in origin.config, which would be written; "
                f"make the two agree in {CONFIG_FILE}, or take origin out and name a format"
            )


def write_flax(folder: Path, settings: Mapping[str, object], arrays: Arrays) -> None:
    """Write config.json and flax_model.msgpack in flax's form."""
    write_msgpack(folder / FLAX_FILE, unflatten_dict(arrays, sep="/"))
    write_settings(folder, settings)


def write_settings(folder: Path, settings: Mapping[str, object], indent: int = 2) -> None:
    """Write config.json, by default indented as other programs do."""
    text = json.dumps(settings, indent=indent) + "\n"
    write_text(folder / CONFIG_FILE, text)


def target(source: Path, is_own: bool, origin: Origin | None, to: str | None) -> str:
    """The format to convert into: `to`, or else ours for another program's and the origin's for
    ours. Raises ValueError if neither is known."""
    if to is None and not is_own:
        return "pastel"
    if to is None and origin is not None:
        return origin.format
    if to is None:
        raise ValueError(f"{source} does not come from another program; name a format with --to")
    return to

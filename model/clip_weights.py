"""A CLIP folder as transformers' torch models write it: config.json, weights, preprocessing.

Nothing but JSON and safetensors is read, so nothing of a folder can be executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

ClipActivation = Literal["quick_gelu", "gelu"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE, PIXELS_FILE = "model.safetensors.index.json", "preprocessor_config.json"
LEGACY_END_ID = 2
"""Configurations before 2023 say that the end token is this one, which it never was; they mean the
largest id, and models that were saved with it are used with that rule to this day."""
MAX_SIZE, MAX_DEPTH = 1 << 24, 1 << 10

# What a configuration leaves out is as in the smallest published model, ViT-B/32.
_EITHER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT_DEFAULTS: dict[str, Any] = {
    **_EITHER,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
IMAGE_DEFAULTS: dict[str, Any] = {
    **_EITHER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
PIXEL_DEFAULTS: dict[str, Any] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


@dataclass(frozen=True)
class TowerConfig:
    """One of CLIP's two transformers."""

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    activation: ClipActivation
    """quick_gelu (x · sigmoid(1.702 x)) in OpenAI's weights, the exact gelu in most others."""
    epsilon: float
    """Of the layer norms."""


@dataclass(frozen=True)
class ClipConfig:
    """A pair of towers that meet in one space of features."""

    text: TowerConfig
    image: TowerConfig
    feature_dim: int
    text_vocab_size: int
    text_length: int
    """Text tokens there are positions for."""
    end_id: int | None
    """The text's features are taken at the first of these tokens; None: at the largest id."""
    image_size: int
    patch_size: int
    pixel_mean: tuple[float, ...]
    """Of red, green and blue between 0 and 1, over the pictures that CLIP was trained on."""
    pixel_std: tuple[float, ...]


def read_config(folder: Path) -> ClipConfig:
    """The configuration. Raises ValueError if there is none, or one of another kind of model."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"no {CONFIG_FILE} in {folder}: a CLIP folder has it and {WEIGHTS_FILE}")
    tree = _read_json(path)
    kind = {"model_type": "clip", **tree}["model_type"]
    if kind != "clip":
        raise ValueError(f"{path} describes a model of type {kind!r}, not clip")
    try:
        return _config(tree, _read_pixel_statistics(folder))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of a CLIP: {error}") from None


def _config(tree: dict[str, Any], pixels: dict[str, tuple[float, ...]]) -> ClipConfig:
    text = TEXT_DEFAULTS | _section(tree, "text_config")
    image = IMAGE_DEFAULTS | _section(tree, "vision_config")
    if image["num_channels"] != 3:
        raise ValueError(f"num_channels is {image['num_channels']!r}, but pictures have 3")
    end_id = text["eos_token_id"]
    if type(end_id) is not int:
        raise ValueError(f"eos_token_id is {end_id!r}, not one whole number")
    config = ClipConfig(
        text=_tower(text),
        image=_tower(image),
        feature_dim=_size({"projection_dim": 512} | tree, "projection_dim"),
        text_vocab_size=_size(text, "vocab_size"),
        text_length=_size(text, "max_position_embeddings"),
        end_id=None if end_id == LEGACY_END_ID else end_id,
        image_size=_size(image, "image_size"),
        patch_size=_size(image, "patch_size"),
        pixel_mean=pixels["image_mean"],
        pixel_std=pixels["image_std"],
    )
    if config.patch_size > config.image_size:
        raise ValueError(f"patch_size {config.patch_size} exceeds image_size {config.image_size}")
    return config


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of one tower; where an old file has them twice, those of NAME_dict hold."""
    for key in (f"{name}_dict", name):
        if tree.get(key) is not None:
            return dict(tree[key])
    return {}


def _tower(settings: dict[str, Any]) -> TowerConfig:
    activation = settings["hidden_act"]
    if activation not in get_args(ClipActivation):
        raise ValueError(f"hidden_act is {activation!r}, not one of {get_args(ClipActivation)}")
    tower = TowerConfig(
        dim=_size(settings, "hidden_size"),
        depth=_size(settings, "num_hidden_layers", MAX_DEPTH),
        num_heads=_size(settings, "num_attention_heads"),
        mlp_dim=_size(settings, "intermediate_size"),
        activation=activation,
        epsilon=float(settings["layer_norm_eps"]),
    )
    if tower.dim % tower.num_heads:
        raise ValueError(
            f"hidden_size {tower.dim} is not a multiple of num_attention_heads {tower.num_heads}"
        )
    return tower


def _size(settings: dict[str, Any], name: str, largest: int = MAX_SIZE) -> int:
    value = settings[name]
    if type(value) is not int or not 0 < value <= largest:
        raise ValueError(f"{name} is {value!r}, not a whole number from 1 to {largest}")
    return value


def _read_pixel_statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    path = folder / PIXELS_FILE
    tree = PIXEL_DEFAULTS | (_read_json(path) if path.is_file() else {})
    found: dict[str, tuple[float, ...]] = {}
    for name in PIXEL_DEFAULTS:
        values = np.asarray(tree[name])
        usable = values.dtype.kind in "if" and values.shape == (3,) and np.isfinite(values).all()
        if not usable or (name == "image_std" and (values <= 0).any()):
            raise ValueError(f"{path} has {name} {tree[name]!r}, not numbers for three colours")
        found[name] = tuple(float(value) for value in values)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no JSON object")
    return tree


_TOWERS = {"text": "text_model", "image": "vision_model"}
_LAYER = {
    "norm_attention": "layer_norm1",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm_mlp": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
# Path of a module, or of an array that has none, → its name in the file; {} is the layer.
_NAMES: dict[tuple[str, ...], str] = {
    ("logit_scale",): "logit_scale",
    ("text", "tokens"): "text_model.embeddings.token_embedding.weight",
    ("text", "positions"): "text_model.embeddings.position_embedding.weight",
    ("text", "norm"): "text_model.final_layer_norm",
    ("text", "project"): "text_projection",
    ("image", "class_token"): "vision_model.embeddings.class_embedding",
    ("image", "patches"): "vision_model.embeddings.patch_embedding",
    ("image", "positions"): "vision_model.embeddings.position_embedding.weight",
    ("image", "norm_before"): "vision_model.pre_layrnorm",  # misspelt there
    ("image", "norm"): "vision_model.post_layernorm",
    ("image", "project"): "visual_projection",
    **{
        (tower, "layers", ours): f"{prefix}.encoder.layers.{{}}.{theirs}"
        for tower, prefix in _TOWERS.items()
        for ours, theirs in _LAYER.items()
    },
}
# torch has kernels as (out, in) and (out, in, y, x), flax as (in, out) and (y, x, in, out).
_KERNEL_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}


def read_params(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The weights as float32, nested as in `like`, which may hold shapes alone.

    Raises:
        ValueError: a file is missing or damaged, or its arrays are not those of `like`.
    """
    path, found = _read_arrays(folder)
    leaves = flatten_dict(like)
    wanted = {
        name: _torch_shape(ours, leaf.shape)
        for ours, leaf in leaves.items()
        for name in _torch_names(ours, leaf.shape)
    }
    _check_arrays(path, found, wanted)
    params = {}
    for ours, leaf in leaves.items():
        arrays = [_to_flax(ours, found[name]) for name in _torch_names(ours, leaf.shape)]
        params[ours] = np.stack(arrays) if "layers" in ours else arrays[0]
    return unflatten_dict(params)


def _read_arrays(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """All arrays of the folder by name, and the file that names them."""
    if (folder / WEIGHTS_FILE).is_file() or not (folder / INDEX_FILE).is_file():
        path = folder / WEIGHTS_FILE
        found = _read_file(path)
    else:
        path = folder / INDEX_FILE
        found = {}
        for name in sorted(_shards(path)):
            found |= _read_file(folder / name)
    # Older files hold the numbers 0, 1, 2, … beside the tables of positions.
    return path, {k: v for k, v in found.items() if not k.endswith(".embeddings.position_ids")}


def _shards(index: Path) -> set[str]:
    weight_map = {"weight_map": None, **_read_json(index)}["weight_map"]
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map that names its parts")
    names = {str(name) for name in weight_map.values()}
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r} instead of a file beside it")
    return names


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}; torch files must be converted to it")
    try:
        return load_file(path)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _check_arrays(
    path: Path, found: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]
) -> None:
    shapes = {name: array.shape for name, array in found.items()}
    odd = sorted(n for n in wanted.keys() | shapes.keys() if wanted.get(n) != shapes.get(n))
    if odd:
        raise ValueError(
            f"{path} does not fit its configuration: {len(odd)} of {len(wanted)} arrays differ, "
            f"first {odd[0]}: {shapes.get(odd[0])} instead of {wanted.get(odd[0])}"
        )
    for name, array in found.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path}: {name} holds {array.dtype}, which is no weight")


def _torch_names(path: tuple[str, ...], shape: tuple[int, ...]) -> list[str]:
    """The names in the file of one of our arrays: of a stack of layers, one for each layer."""
    whole = path in _NAMES
    kind = "bias" if path[-1] == "bias" else "weight"
    name = _NAMES[path] if whole else f"{_NAMES[path[:-1]]}.{kind}"
    return [name.format(layer) for layer in range(shape[0])] if "layers" in path else [name]


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    own = shape[1:] if "layers" in path else shape
    if path[-1] != "kernel":
        return own
    return tuple(own[axis] for axis in np.argsort(_KERNEL_AXES[len(own)]))


def _to_flax(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    turned = array.transpose(_KERNEL_AXES[array.ndim]) if path[-1] == "kernel" else array
    return np.array(turned, np.float32, order="C")

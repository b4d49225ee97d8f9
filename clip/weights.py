"""CLIP as transformers' torch models are saved: config.json, preprocessor_config.json and the keys
of model.safetensors. Radford et al. 2021, arXiv:2103.00020.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from common.files import write_text
from common.json_files import Json, read_json
from weights.arrays import read_arrays, shapes_of, write_weights
from weights.plans import TORCH_LEAVES, Leaf, Plan, gather, scatter
from weights.settings import MAX_DEPTH, Fields, configuring, read_fields

ClipActivation = Literal["quick_gelu", "gelu"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PIXELS_FILE = "preprocessor_config.json"
CLIP_FOLDER = "clip"
"""Folder of the CLIP in a run of clip.train, and of the CLIP that ranks a checkpoint's pictures."""
LEGACY_END_ID = 2
"""The end token in configurations before 2023. No text has it; with such a configuration the
largest id of a text counts as its end, as it did before the setting existed."""
MEANT = "eos_token_id_is_meant"
"""Key in the text_config of our CLIPs: eos_token_id is right, even if it is 2."""

_TOWER_FIELDS: Fields = {
    "num_hidden_layers": ("depth", 12),
    "hidden_act": ("activation", "quick_gelu"),
    "layer_norm_eps": ("epsilon", 1e-5),
}
TEXT_FIELDS: Fields = {
    **_TOWER_FIELDS,
    "hidden_size": ("dim", 512),
    "intermediate_size": ("mlp_dim", 2048),
    "num_attention_heads": ("num_heads", 8),
    "vocab_size": ("text_vocab_size", 49408),
    "max_position_embeddings": ("text_length", 77),
    "eos_token_id": ("end_id", 49407),
}
IMAGE_FIELDS: Fields = {
    **_TOWER_FIELDS,
    "hidden_size": ("dim", 768),
    "intermediate_size": ("mlp_dim", 3072),
    "num_attention_heads": ("num_heads", 12),
    "num_channels": ("num_channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}
"""CLIP's setting → (Pastel's setting, transformers' default: ViT-B/32)."""
PIXEL_STATISTICS: Json = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
"""Means and deviations of red, green and blue in 0..1, over CLIP's training pictures."""


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
    """Epsilon of the layer norms."""

    def __post_init__(self) -> None:
        if min(self.dim, self.num_heads, self.mlp_dim) < 1 or self.dim % self.num_heads:
            raise ValueError(
                f"hidden_size {self.dim} is not a multiple of num_attention_heads "
                f"{self.num_heads}, or intermediate_size {self.mlp_dim} is less than 1"
            )
        if not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"num_hidden_layers must be in 1..{MAX_DEPTH}, not {self.depth}")


@dataclass(frozen=True)
class ClipConfig:
    """Two towers that map into one space of features."""

    text: TowerConfig
    image: TowerConfig
    feature_dim: int
    text_vocab_size: int
    text_length: int
    """The number of positions: the most tokens of a text."""
    end_id: int | None
    """The features of a text are taken at the first of these tokens; None: at its largest id."""
    image_size: int
    patch_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    has_start: bool = True
    """Texts begin with a start token, as in published CLIPs; not in Pastel's."""

    def __post_init__(self) -> None:
        if min(self.feature_dim, self.text_vocab_size, self.text_length) < 1:
            raise ValueError(
                f"projection_dim {self.feature_dim}, vocab_size {self.text_vocab_size} and "
                f"max_position_embeddings {self.text_length} must be at least 1"
            )
        if not 1 <= self.patch_size <= self.image_size:
            raise ValueError(
                f"patch_size {self.patch_size} must be in 1..image_size, {self.image_size}"
            )


def read_config(folder: Path) -> ClipConfig:
    """The configuration in a folder. Raises ValueError if it is missing or of another model."""
    path = folder / CONFIG_FILE
    values = read_json(path)
    if (model_type := values.get("model_type", "clip")) != "clip":
        raise ValueError(f"{path} describes a model of type {model_type!r:.60}, not clip")
    statistics = _read_pixel_statistics(folder)
    with configuring(path, "a CLIP"):
        text_values = section(values, "text_config")
        text = read_fields(text_values, TEXT_FIELDS)
        is_legacy = text["end_id"] == LEGACY_END_ID and text_values.get(MEANT) is not True
        image = read_fields(section(values, "vision_config"), IMAGE_FIELDS)
        if image["num_channels"] != 3:
            raise ValueError(f"num_channels is {image['num_channels']}, but pictures have 3")
        return ClipConfig(
            text=_tower(text),
            image=_tower(image),
            **read_fields(values, {"projection_dim": ("feature_dim", 512)}),
            text_vocab_size=text["text_vocab_size"],
            text_length=text["text_length"],
            end_id=None if is_legacy else text["end_id"],
            image_size=image["image_size"],
            patch_size=image["patch_size"],
            pixel_mean=statistics["image_mean"],
            pixel_std=statistics["image_std"],
            has_start=text_values.get("bos_token_id", 0) is not None,
        )


def section(values: Mapping[str, object], name: str) -> Json:
    """The settings of one tower. Old files may have them twice; then NAME_dict is used."""
    for key in (f"{name}_dict", name):
        settings = values.get(key)
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise ValueError(f"{name} is {settings!r:.60} instead of settings")
        return settings
    return {}


def _tower(settings: dict[str, Any]) -> TowerConfig:
    if settings["activation"] not in get_args(ClipActivation):
        known = " nor ".join(get_args(ClipActivation))
        raise ValueError(f"hidden_act {settings['activation']} is neither {known}")
    names = ("dim", "depth", "num_heads", "mlp_dim", "activation", "epsilon")
    return TowerConfig(**{name: settings[name] for name in names})


def _read_pixel_statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    path = folder / PIXELS_FILE
    values = PIXEL_STATISTICS | (read_json(path) if path.is_file() else {})
    for name in PIXEL_STATISTICS:
        numbers, least = values[name], 1e-6 if name == "image_std" else -1e6
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            raise ValueError(f"{path}: {name} is {numbers!r:.60} instead of three numbers")
        if not all(isinstance(n, int | float) and least <= n <= 1e6 for n in numbers):
            raise ValueError(f"{path}: {name} {numbers!r:.60} are not numbers in {least:g}..1e6")
    return {name: tuple(float(n) for n in values[name]) for name in PIXEL_STATISTICS}


TABLES = {
    "logit_scale": "logit_scale",
    "text/tokens": "text_model.embeddings.token_embedding.weight",
    "text/positions": "text_model.embeddings.position_embedding.weight",
    "image/class_token": "vision_model.embeddings.class_embedding",
    "image/positions": "vision_model.embeddings.position_embedding.weight",
}
MODULES = {
    "text/norm": "text_model.final_layer_norm",
    "text/project": "text_projection",
    "image/patches": "vision_model.embeddings.patch_embedding",
    "image/norm_before": "vision_model.pre_layrnorm",  # misspelt there
    "image/norm": "vision_model.post_layernorm",
    "image/project": "visual_projection",
}
LAYERS = {"text": "text_model.encoder.layers", "image": "vision_model.encoder.layers"}
IN_LAYER = {
    "norm_attention": "layer_norm1",
    **{part: f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
    "norm_mlp": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
KERNEL_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
"""torch stores kernels as (out, in) and (out, in, y, x), flax as (in, out) and (y, x, in, out)."""


def write(folder: Path, config: ClipConfig, params: Mapping[str, object]) -> None:
    """Write the files that `read_config` and `read_params` read, the weights as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = flatten_dict(params, sep="/")
    write_weights(folder / WEIGHTS_FILE, scatter(plan(shapes_of(params)), arrays), "float32")
    text = _written(TEXT_FIELDS, {**asdict(config), **asdict(config.text)})
    text |= {"bos_token_id": 0 if config.has_start else None, MEANT: True}
    image = _written(IMAGE_FIELDS, {**asdict(config), **asdict(config.image), "num_channels": 3})
    pixels = {"image_mean": config.pixel_mean, "image_std": config.pixel_std}
    write_json(
        folder / CONFIG_FILE,
        {
            "model_type": "clip",
            "projection_dim": config.feature_dim,
            "text_config": text,
            "vision_config": image,
        },
    )
    write_json(folder / PIXELS_FILE, pixels)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """A JSON object as a file, whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def _written(fields: Fields, values: Mapping[str, object]) -> Json:
    """Settings by the names in CLIP's files."""
    return {name: values[pastel_name] for name, (pastel_name, _) in fields.items()}


def read_params(folder: Path, like: Mapping[str, object]) -> dict[str, Any]:
    """The weights as float32, nested as in `like`, which may hold only shapes.

    Raises:
        ValueError: a file is missing or damaged, or its arrays do not fit `like`.
    """
    path, arrays = read_arrays(folder, WEIGHTS_FILE)
    for key in [key for key in arrays if key.endswith(".embeddings.position_ids")]:
        del arrays[key]  # 0, 1, 2, … in older files
    return unflatten_dict(gather(path, arrays, plan(shapes_of(like)), np.float32), sep="/")


def plan(shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """The array in the published file for each of Pastel's parameters (path → shape)."""
    leaves: Plan = {}
    for path, shape in shapes.items():
        module, _, leaf = path.rpartition("/")
        tower, in_layer, part = module.partition("/layers/")
        layer_shape = shape[1:] if in_layer else shape
        if path in TABLES:
            keys: tuple[str, ...] = (TABLES[path],)
        elif in_layer:
            ending = f"{IN_LAYER[part]}.{TORCH_LEAVES[leaf]}"
            keys = tuple(f"{LAYERS[tower]}.{i}.{ending}" for i in range(shape[0]))
        else:
            keys = (f"{MODULES[module]}.{TORCH_LEAVES[leaf]}",)
        axes = KERNEL_AXES[len(layer_shape)] if leaf == "kernel" else tuple(range(len(layer_shape)))
        back = tuple(int(axis) for axis in np.argsort(axes))
        file_shape = tuple(layer_shape[axis] for axis in back)
        leaves[path] = Leaf(keys, file_shape, bool(in_layer), _turn(axes), _turn(back))
    return leaves


def _turn(axes: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array.transpose(axes)

"""Reads text encoders of other programs: BART's encoder, CLIP's text tower and T5's encoder.

A `Layout` converts an encoder's settings to a ModelConfig, and names its arrays in
model.safetensors, the file that transformers writes. BART: Lewis et al. 2019, arXiv:1910.13461.
CLIP: Radford et al. 2021, arXiv:2103.00020. T5: Raffel et al. 2020, arXiv:1910.10683.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from clip import weights as clip
from common.json_files import Json
from model import transformer
from model.config import ModelConfig
from model.encoder_config import EncoderConfig, taken_from
from model.transformer import Params
from published import bart
from weights.arrays import Arrays, Shapes, read_arrays, shapes_of
from weights.plans import TORCH_LEAVES, Leaf, Plan, gather
from weights.releases import WEIGHTS_FILE
from weights.settings import Fields, read_fields

OF_ENCODER = ("text_embedding", "encoder", "encoder_bias", "encoder_norm")
"""The parts of Pastel's parameters that come from the other program's encoder."""
T5_FIELDS: Fields = {
    "d_model": ("dim", 512),
    "d_kv": ("head_dim", 64),
    "d_ff": ("mlp_dim", 2048),
    "num_layers": ("encoder_depth", 6),
    "num_heads": ("num_heads", 8),
    "vocab_size": ("text_vocab_size", 32128),
    "layer_norm_epsilon": ("norm_epsilon", 1e-6),
    "feed_forward_proj": ("activation", "relu"),
    "relative_attention_num_buckets": ("buckets", 32),
    "relative_attention_max_distance": ("bucket_distance", 128),
}
"""T5's setting → (Pastel's setting, transformers' default)."""
FEED_FORWARD = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),  # t5 v1.1's gelu is the approximate one
    "gated-silu": ("silu", True),
}
"""T5's name → (Pastel's activation, True if it is gated)."""
IN_T5: dict[str, str] = {
    **{f"attention/{part}": f"layer.0.SelfAttention.{part}" for part in "qkv"},
    "attention/out": "layer.0.SelfAttention.o",
    "attention_residual/norm_before": "layer.0.layer_norm",
    "mlp_residual/norm_before": "layer.1.layer_norm",
    "mlp/down": "layer.1.DenseReluDense.wo",
}
IN_CLIP = {
    "norm_attention": "attention_residual/norm_before",
    **{name: f"attention/{name}" for name in ("q", "k", "v", "out")},
    "norm_mlp": "mlp_residual/norm_before",
    "up": "mlp/up",
    "down": "mlp/down",
}
"""Part of a layer in clip/towers.py → part of a layer in model/."""
NAMED = 5


def _read_clip(values: Mapping[str, object]) -> ModelConfig:
    values = clip.section(values, "text_config") if "text_config" in values else values
    settings = read_fields(values, clip.TEXT_FIELDS)
    names = ("dim", "num_heads", "mlp_dim", "text_vocab_size", "text_length", "activation")
    config = ModelConfig(
        **{name: settings[name] for name in names},
        encoder_depth=settings["depth"],
        norm="layernorm",
        norm_epsilon=settings["epsilon"],
        use_bias=True,
        use_glu=False,
        embedding_norm=False,
    )
    return replace(config, encoder=taken_from(config, causal=True))


def _read_bart(values: Mapping[str, object]) -> ModelConfig:
    config = bart.read_config(values)
    return replace(config, tying="none", encoder=taken_from(config))


def _read_t5(values: Mapping[str, object]) -> ModelConfig:
    settings = read_fields(values, T5_FIELDS)
    word = settings["activation"]
    if word not in FEED_FORWARD:
        raise ValueError(f"feed_forward_proj {word:.60} is not one of {', '.join(FEED_FORWARD)}")
    settings["activation"], use_glu = FEED_FORWARD[word]
    of_encoder = {name: settings.pop(name) for name in ("buckets", "bucket_distance")}
    config = ModelConfig(
        **settings,
        use_glu=use_glu,
        scores="unscaled",
        positions="none",
        embedding_norm=False,
    )
    return replace(config, encoder=taken_from(config, **of_encoder))


def _in_t5(shapes: Shapes) -> dict[str, str]:
    """Pastel's part of a layer → T5's name. A gated layer has two first products."""
    if any("/mlp/gate/" in path for path in shapes):
        ups = {"mlp/up": "wi_0", "mlp/gate": "wi_1"}
    else:
        ups = {"mlp/up": "wi"}
    return IN_T5 | {pastel: f"layer.1.DenseReluDense.{t5}" for pastel, t5 in ups.items()}


@dataclass(frozen=True)
class Layout:
    """How a program names the settings and the arrays of its encoder."""

    read: Callable[[Json], ModelConfig]
    tables: Mapping[str, tuple[str, ...]]
    """Pastel's path → possible keys in the file; the first existing one is used."""
    layers: str
    """Prefix of a layer's number in the keys."""
    modules: Callable[[Shapes], Mapping[str, str]]
    """Function of Pastel's shapes → (Pastel's part of a layer → the program's name)."""
    has_length: bool = True
    """True if the encoder's table of positions limits the number of tokens."""


def _norm(path: str, key: str) -> dict[str, tuple[str, ...]]:
    return {f"{path}/scale": (f"{key}.weight",), f"{path}/bias": (f"{key}.bias",)}


_CLIP = Layout(
    _read_clip,
    {
        "text_embedding/tokens": (clip.TABLES["text/tokens"],),
        "text_embedding/positions": (clip.TABLES["text/positions"],),
        **_norm("encoder_norm", clip.MODULES["text/norm"]),
    },
    clip.LAYERS["text"],
    lambda shapes: {path: clip.IN_LAYER[part] for part, path in IN_CLIP.items()},
)
_T5 = Layout(
    _read_t5,
    {
        "text_embedding/tokens": ("encoder.embed_tokens.weight", "shared.weight"),
        "encoder_bias/table": (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        **_norm("encoder_norm", "encoder.final_layer_norm"),
    },
    "encoder.block",
    _in_t5,
    has_length=False,
)
LAYOUTS = {
    "bart": Layout(
        _read_bart,
        {
            "text_embedding/tokens": ("encoder.embed_tokens.weight", "shared.weight"),
            "text_embedding/positions": ("encoder.embed_positions.weight",),
            **_norm("text_embedding/norm", "encoder.layernorm_embedding"),
        },
        "encoder.layers",
        lambda shapes: bart.MODULES,
    ),
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "t5": _T5,
    "mt5": _T5,
}
"""model_type in config.json → layout. Keys lack the prefix "model." that BART's files have."""


def layout_of(values: Mapping[str, object]) -> Layout:
    """The layout for a config.json. Raises ValueError if its model_type is unknown."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        raise ValueError(f"model_type {model_type!r:.60} is not one of {', '.join(LAYOUTS)}")
    return LAYOUTS[model_type]


def with_encoder(model: ModelConfig, other: ModelConfig) -> ModelConfig:
    """The settings of `model` with the text encoder of `other`.

    Raises:
        ValueError: `model` sets other values for the encoder, or cannot have this encoder.
    """
    if model.encoder not in (EncoderConfig(), other.encoder):
        raise ValueError(f"it is {other.encoder}, and model.encoder says {model.encoder}")
    if model.tying == "all":
        raise ValueError(
            "model.tying all shares the table of image tokens with the text; use "
            "--model.tying=output or none"
        )
    names = ("encoder_depth", "encoder_final_norm", "sinkhorn_iterations", "text_vocab_size")
    return replace(model, encoder=other.encoder, **{n: getattr(other, n) for n in names})


def read_params(folder: Path, layout: Layout, other: ModelConfig) -> tuple[Params, list[str]]:
    """(the encoder's float32 parameters with all its positions, a line that counts the arrays of
    the file that are not used, if there are any).

    Raises:
        ValueError: a file is missing or damaged, or its arrays do not fit `other`.
    """
    path, arrays = read_arrays(folder, WEIGHTS_FILE)
    arrays = {key.removeprefix("model."): array for key, array in arrays.items()}
    shapes = shapes_of(transformer.build(other).shapes)
    wanted = {name: s for name, s in shapes.items() if name.partition("/")[0] in OF_ENCODER}
    plan = _plan(layout, wanted, arrays)
    keys = [key for leaf in plan.values() for key in leaf.keys]
    used = {key: arrays.pop(key) for key in keys if key in arrays}
    params = gather(path, used, plan, np.float32)
    return unflatten_dict(params, sep="/"), [_describe_rest(folder, arrays)] if arrays else []


def _plan(layout: Layout, shapes: Shapes, arrays: Arrays) -> Plan:
    """Pastel's path → the leaf with the keys of the file's arrays; `shapes` has Pastel's shapes."""
    plan: Plan = {}
    modules = layout.modules(shapes)
    for path, shape in shapes.items():
        if path in layout.tables:
            keys = layout.tables[path]
            plan[path] = Leaf((next((key for key in keys if key in arrays), keys[-1]),), shape)
            continue
        module, _, leaf = path.removeprefix("encoder/run0/").rpartition("/")
        where = f"{modules[module]}.{TORCH_LEAVES[leaf]}"
        turned = np.transpose if leaf == "kernel" else np.asarray
        plan[path] = Leaf(
            tuple(f"{layout.layers}.{i}.{where}" for i in range(shape[0])),
            shape[:0:-1],
            True,
            turned,
            turned,
        )
    return plan


def _describe_rest(folder: Path, arrays: Arrays) -> str:
    """Such as "of FOLDER 40 arrays are not used: decoder (38), lm_head (2)"."""
    groups = Counter(key.partition(".")[0] for key in arrays).most_common()
    named = ", ".join(f"{group} ({count})" for group, count in groups[:NAMED])
    more = f" and {len(groups) - NAMED} more kinds" if len(groups) > NAMED else ""
    size = sum(array.size for array in arrays.values())
    return f"{len(arrays)} arrays of {folder}, {size:,} numbers, are not used: {named}{more}"

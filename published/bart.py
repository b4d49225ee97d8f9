"""BART as transformers' torch models are saved: config.json and the keys of model.safetensors, both
directions. Lewis et al. 2019, arXiv:1910.13461.

Its kernels are (out, in), its one embedding table serves both vocabularies and the head, and its
tables of positions begin with two rows that nothing reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.json_files import Json
from model.config import ModelConfig
from published.bart_family import (
    OF_BART,
    check_settings,
    read_transformer,
    square_grid,
    write_transformer,
)
from weights.arrays import Arrays
from weights.plans import TORCH_LEAVES, Leaf, Plan
from weights.settings import Fields

FIELDS: Fields = {
    **OF_BART,
    "vocab_size": ("text_vocab_size", 50265),
    "max_position_embeddings": ("text_length", 1024),
    "decoder_start_token_id": ("decoder_start_token_id", 2),
}
"""BART's setting → (Pastel's setting, transformers' default)."""
MUST_BE = {
    "tie_word_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
}
"""Settings of old configurations, with the only value that is BART's; others are refused."""
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
FIXED: dict[str, Any] = {
    "norm": "layernorm",
    "placement": "postln",
    "use_bias": True,
    "use_glu": False,
    "tying": "all",
    "position_offset": 2,
    "logits_bias": True,
    "base_dim": 0,
}
"""Pastel's settings that make a transformer BART."""
FREE = {pastel_name for pastel_name, _ in FIELDS.values()} | {
    *("image_vocab_size", "grid_size", "grid_rows"),  # checked, or held equal to the text's
    *("force_norm_scale", "encoder_final_norm", "decoder_final_norm"),  # postln reads none of them
    *("init", "remat", "unroll", "rotary_base"),  # without effect on a trained model
}

TABLES = {
    "text_embedding/positions": "model.encoder.embed_positions.weight",
    "image_embedding/tokens": "model.shared.weight",
    "image_embedding/positions": "model.decoder.embed_positions.weight",
}
TWINS = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""Other keys of the one table."""
NORMS = {
    "text_embedding/norm": "model.encoder.layernorm_embedding",
    "image_embedding/norm": "model.decoder.layernorm_embedding",
}
ATTENTIONS = {"attention": "self_attn", "cross_attention": "encoder_attn"}
MODULES = {
    **{
        f"{pastel_name}/{part}": f"{bart_name}.{part}_proj"
        for pastel_name, bart_name in ATTENTIONS.items()
        for part in ("q", "k", "v", "out")
    },
    "attention_residual/norm_sum": "self_attn_layer_norm",
    "cross_residual/norm_sum": "encoder_attn_layer_norm",
    "mlp/up": "fc1",
    "mlp/down": "fc2",
    "mlp_residual/norm_sum": "final_layer_norm",
}


def read_config(values: Mapping[str, object]) -> ModelConfig:
    """The ModelConfig for the settings in BART's config.json.

    Raises:
        ValueError: a setting is of a wrong type, or we have no such option.
    """
    for name, needed in MUST_BE.items():
        if values.get(name, needed) != needed:
            raise ValueError(f"{name} {values[name]!r:.60}: only {needed} is known here")
    fields = read_transformer(values, FIELDS, ACTIVATIONS)
    fields["image_vocab_size"] = fields["text_vocab_size"]
    return ModelConfig(**fields, **square_grid(fields["text_length"]), **FIXED)


def write_config(config: ModelConfig) -> Json:
    """BART's settings for a ModelConfig.

    Raises:
        ValueError: BART has no option for a setting; the message names Pastel's setting.
    """
    check_settings(config, "a BART configuration", {k: (v,) for k, v in FIXED.items()}, FREE)
    if config.image_length != config.text_length:
        raise ValueError(
            f"model.text_length {config.text_length} differs from the {config.image_length} image "
            f"tokens; BART has one max_position_embeddings for both"
        )
    values = write_transformer(config, FIELDS, ACTIVATIONS)
    return dict(sorted(values.items())) | {
        "architectures": ["BartForConditionalGeneration"],
        "decoder_start_token_id": config.start_token,
        "is_encoder_decoder": True,
        "model_type": "bart",
        "tie_word_embeddings": True,
    }


def untie(path: Path, arrays: Arrays) -> Arrays:
    """The arrays with the table under one key, and with a bias of the logits.

    Raises:
        ValueError: the copies of the table differ.
    """
    if not any(key.startswith("model.") for key in arrays):  # saved without its head
        arrays = {
            k if k in ("final_logits_bias", *TWINS) else f"model.{k}": v for k, v in arrays.items()
        }
    shared = TABLES["image_embedding/tokens"]
    for twin in TWINS:
        if twin not in arrays:
            continue
        table = arrays.pop(twin)
        if not np.array_equal(arrays.setdefault(shared, table), table):
            raise ValueError(f"{path} has {twin} unlike {shared}, though BART ties the two")
    if shared in arrays and arrays[shared].ndim == 2:
        zeros = np.zeros((1, len(arrays[shared])), arrays[shared].dtype)
        arrays.setdefault("final_logits_bias", zeros)
    return arrays


def plan(shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """The array in BART's file for each of Pastel's parameters (path → shape)."""
    leaves: Plan = {}
    for path, shape in shapes.items():
        stack, _, rest = path.partition("/run0/")
        module, _, leaf = (rest or path).rpartition("/")
        if path == "logits_bias":
            row = Leaf(
                ("final_logits_bias",), (1, *shape), False, lambda x: x[0], lambda x: x[None]
            )
            leaves[path] = row
        elif path in TABLES:
            leaves[path] = Leaf((TABLES[path],), shape)
        elif not rest:
            leaves[path] = Leaf((f"{NORMS[module]}.{TORCH_LEAVES[leaf]}",), shape)
        else:
            where = f"{MODULES[module]}.{TORCH_LEAVES[leaf]}"
            keys = tuple(f"model.{stack}.layers.{i}.{where}" for i in range(shape[0]))
            turned = np.transpose if leaf == "kernel" else np.asarray
            bart_shape = shape[:0:-1] if leaf == "kernel" else shape[1:]
            leaves[path] = Leaf(keys, bart_shape, True, turned, turned)
    return leaves

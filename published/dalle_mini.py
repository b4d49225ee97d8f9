"""DALL·E mini's models: its config.json and the keys of its flax_model.msgpack, both directions.

Dayma et al. 2021, doi:10.5281/zenodo.5146400. Layers are stacked in one array (scanned), with a
first axis over them, or stored in arrays of their own (unrolled). Norms are numbered in the order
in which they are applied, those without parameters too.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from common.json_files import Json
from model.blocks import LayerNorms, Norms, layer_norms
from model.config import Init, ModelConfig
from model.encoder_config import EncoderConfig
from model.init import Branch
from published.bart_family import (
    OF_BART,
    check_settings,
    read_transformer,
    square_grid,
    write_transformer,
)
from weights.plans import Leaf, Plan
from weights.settings import Fields, read_fields

FIELDS: Fields = {
    **OF_BART,
    "encoder_vocab_size": ("text_vocab_size", 50264),
    "max_text_length": ("text_length", 64),
    "image_vocab_size": ("image_vocab_size", 16384),
    "ln_type": ("norm", "layernorm"),
    "ln_positions": ("placement", "normformer"),
    "force_ln_scale": ("force_norm_scale", False),
    "use_final_ln_encoder": ("encoder_final_norm", True),
    "use_final_ln_decoder": ("decoder_final_norm", True),
    "use_deepnet_scaling": ("deepnet_scaling", False),
    "use_glu": ("use_glu", True),
    "use_bias": ("use_bias", False),
    "tau_init": ("cosine_temperature", 0.05),
    "sinkhorn_iters": ("sinkhorn_iterations", 1),
    "use_head_scale": ("head_scale", False),
}
"""DALL·E mini's setting → (Pastel's setting, DALL·E mini's default)."""
SWITCHES: Fields = {
    "image_length": ("image_length", 256),
    "use_cosine_attention": ("cosine", False),
    "use_absolute_position_embeddings": ("learned", True),
    "use_swin_position_embeddings": ("pair", False),
    "use_subln_init": ("subln", False),
    "tie_word_embeddings": ("tied", False),
    "normalize_text": ("normalize_text", False),
}
"""DALL·E mini's settings that are not one setting of Pastel's → (a name, the default)."""
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
    "smelu": "smelu",
}
"""DALL·E mini's activation → Pastel's. DALL·E mini's smelu is 1/4 below −1 where the published one
is 0; Pastel's is the published one."""
NOT_THE_FUNCTION = ("use_cache", "use_scan")
"""Switches beginning with use_ that may be true without an effect on the function."""
ALLOWED: dict[str, Collection[Any]] = {
    "num_kv_heads": (0,),
    "head_dim": (0,),
    "norm_epsilon": (1e-5,),
    "encoder": (EncoderConfig(),),
    "position_offset": (0,),
    "embedding_norm": (True,),
    "block": ("serial",),
    "scores": ("dot", "cosine"),
    "positions": ("learned", "none"),
    "relative_bias": ("none", "pair"),
    "tying": ("none", "output"),
    "logits_scale": (1.0,),
    "logits_bias": (False,),
    "base_dim": (0,),
}
FREE = {pastel_name for pastel_name, _ in FIELDS.values()} | {
    *("grid_size", "grid_rows", "decoder_start_token_id", "closing_norm_scale"),
    *("init", "remat", "unroll", "rotary_base"),  # without effect on a trained model
}
"""Pastel's settings that DALL·E mini can express with any value, or need not express."""

TABLES = {
    "text_embedding/tokens": "model/encoder/embed_tokens/embedding",
    "text_embedding/positions": "model/encoder/embed_positions/embedding",
    "image_embedding/tokens": "model/decoder/embed_tokens/embedding",
    "image_embedding/positions": "model/decoder/embed_positions/embedding",
}
MODULES = {
    "text_embedding/norm": "model/encoder/layernorm_embedding",
    "encoder_norm": "model/encoder/final_ln",
    "image_embedding/norm": "model/decoder/layernorm_embedding",
    "decoder_norm": "model/decoder/final_ln",
    "head": "lm_head",
}
LAYERS = {
    "encoder": "model/encoder/layers/FlaxBartEncoderLayer",
    "decoder": "model/decoder/layers/FlaxBartDecoderLayer",
}
NORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
LEAVES = {"relative_bias": "rel_bias/embedding"}


def is_scanned(keys: Collection[str]) -> bool:
    """True if the layers of a stack are one array; a configuration need not say it."""
    return any(key.startswith(f"{LAYERS['encoder']}s/") for key in keys)


def read_config(values: Mapping[str, object], keys: Collection[str]) -> ModelConfig:
    """The ModelConfig for DALL·E mini's settings and the keys of its weights.

    DALL·E mini has more classes than the VQGAN has codes, such as the start and end tokens.
    Sampling without a `codebook_size` (model/sampling.py) may return those, too.

    Raises:
        ValueError: a setting is of a wrong type, or we have no such option.
    """
    known = {**FIELDS, **SWITCHES}
    for name, value in values.items():
        if name.startswith("use_") and name not in {*known, *NOT_THE_FUNCTION} and value:
            raise ValueError(f"{name} {value!r:.60} is not known here; its models would differ")
    fields = read_transformer(values, FIELDS, ACTIVATIONS)
    switches = read_fields(values, SWITCHES)
    classes = fields["image_vocab_size"] + 1
    start = read_fields(values, {"decoder_start_token_id": ("start", classes - 1)})["start"]
    if start >= classes:
        raise ValueError(f"decoder_start_token_id {start} is beyond image_vocab_size {classes - 1}")
    fields |= {
        "image_vocab_size": classes,
        "decoder_start_token_id": start,
        "placement": "postln" if fields["placement"] == "deepnet" else fields["placement"],
    }
    subln: Init = "subln" if switches["subln"] else "normal"
    return ModelConfig(
        **fields,
        **square_grid(switches["image_length"]),
        scores="cosine" if switches["cosine"] else "dot",
        positions="learned" if switches["learned"] else "none",
        relative_bias="pair" if switches["pair"] else "none",
        tying="output" if switches["tied"] else "none",
        init="deepnet" if fields["deepnet_scaling"] else subln,
        closing_norm_scale=fields["force_norm_scale"] or _closing_scale(fields, keys),
    )


def _closing_scale(fields: Mapping[str, Any], keys: Collection[str]) -> bool:
    """True if the last layers' closing norms have scales, by the keys of the file."""
    if fields["placement"] not in ("postln", "deepnet") or is_scanned(keys):
        return True
    last = f"{LAYERS['encoder']}_{fields['encoder_depth'] - 1}/"
    return any(f"{last}{norm}_1/scale" in keys for norm in NORMS.values())


def write_config(config: ModelConfig) -> Json:
    """DALL·E mini's settings for a ModelConfig.

    Raises:
        ValueError: DALL·E mini has no option for a setting; the message names Pastel's setting.
    """
    check_settings(config, "a dalle-mini configuration", ALLOWED, FREE)
    if config.start_token >= config.image_vocab_size:
        raise ValueError(
            f"model.decoder_start_token_id {config.decoder_start_token_id} stands behind the "
            f"{config.image_vocab_size} classes; dalle-mini's start token is one of them"
        )
    end = config.image_vocab_size - 1
    values = write_transformer(config, FIELDS, ACTIVATIONS) | {
        "image_vocab_size": end,
        "image_length": config.image_length,
        "use_cosine_attention": config.scores == "cosine",
        "use_absolute_position_embeddings": config.positions == "learned",
        "use_swin_position_embeddings": config.relative_bias == "pair",
        "use_subln_init": config.init == "subln",
        "tie_word_embeddings": config.tying == "output",
        "gradient_checkpointing": config.remat != "none",
        "use_scan": scannable(config),
        "decoder_start_token_id": config.start_token,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        **dict.fromkeys(("min_length", "max_length"), config.image_length + 1),
        **dict.fromkeys(("use_cache", "is_encoder_decoder", "do_sample"), True),
        **dict.fromkeys(("use_alibi", "normalize_text"), False),
        "model_type": "dallebart",
        "architectures": ["DalleBart"],
    }
    if config.placement == "postln":  # never has them, and the package insists on the words
        values |= {"use_final_ln_encoder": True, "use_final_ln_decoder": True}
    return dict(sorted(values.items()))


def scannable(config: ModelConfig) -> bool:
    """True if all layers are alike, so that the package would scan them."""
    odd = config.placement == "postln" and not config.closing_norm_scale
    return config.placement != "swinv2" and not odd


def plan(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], scanned: bool) -> Plan:
    """The array in DALL·E mini's file for each of Pastel's parameters (path → shape). Raises
    ValueError for scanned layers that are not alike."""
    if scanned and not scannable(config):
        raise ValueError(f"{config.placement} layers cannot be scanned: they are not all alike")
    leaves: Plan = {}
    names = {"encoder": _layer_modules(config, "encoder")}
    names["decoder"] = _layer_modules(config, "decoder")
    for path, shape in shapes.items():
        stack, _, rest = path.partition("/")
        if stack not in LAYERS:
            module, _, leaf = path.rpartition("/")
            leaves[path] = Leaf((TABLES.get(path) or f"{MODULES[module]}/{leaf}",), shape)
            continue
        run, _, inner = rest.partition("/")
        module, _, leaf = inner.rpartition("/")
        earlier = range(int(run.removeprefix("run")))
        first = sum(shapes[f"{stack}/run{i}/attention/q/kernel"][0] for i in earlier)
        where = f"{names[stack][module]}/{LEAVES.get(leaf, leaf)}"
        keys = tuple(f"{LAYERS[stack]}_{first + i}/{where}" for i in range(shape[0]))
        keys = (f"{LAYERS[stack]}s/{where}",) if scanned else keys
        leaves[path] = _leaf(keys, leaf, shape if scanned else shape[1:], not scanned)
    return leaves


def _leaf(keys: tuple[str, ...], leaf: str, shape: tuple[int, ...], by_layer: bool) -> Leaf:
    """The plan's entry for an array, with the array's shape there."""
    if leaf == "head_scale":  # (…, h) in Pastel, (…, 1, 1, h, 1) in DALL·E mini
        mini_shape = (*shape[:-1], 1, 1, shape[-1], 1)
        return Leaf(
            keys,
            mini_shape,
            by_layer,
            lambda x: x[..., 0, 0, :, 0],
            lambda x: x[..., None, None, :, None],
        )
    if leaf == "relative_bias":  # (…, h, q, k) in Pastel, (…, q, k · h) in DALL·E mini
        *layers, heads, q, k = shape
        return Leaf(
            keys,
            (*layers, q, k * heads),
            by_layer,
            lambda x: np.moveaxis(x.reshape(*x.shape[:-1], k, heads), -1, -3),
            lambda x: np.moveaxis(x, -3, -1).reshape(*x.shape[:-3], q, k * heads),
        )
    return Leaf(keys, shape, by_layer)


def _layer_modules(config: ModelConfig, branch: Branch) -> dict[str, str]:
    """Pastel's name of a module in a layer → DALL·E mini's."""
    norms, norm = layer_norms(config, branch)[0], NORMS[config.norm]
    feed = "GLU_0" if config.use_glu else "FFN_0"
    names = {
        "mlp/up": f"{feed}/Dense_0",
        "mlp/gate": f"{feed}/Dense_1",
        "mlp/down": f"{feed}/Dense_{1 + config.use_glu}",
    }
    attentions = {"attention": "FlaxBartAttention_0", "cross_attention": "FlaxBartAttention_1"}
    for pastel, mini in attentions.items():
        names |= {f"{pastel}/{part}": f"{mini}/{part}_proj" for part in ("q", "k", "v", "out")}
        names |= {pastel: mini, f"{pastel}/mid_norm": f"{mini}/mid_layernorm"}
    outside, inside = _norms_in_order(norms, branch)
    names |= {name: f"{norm}_{i}" for i, name in enumerate(outside)}
    return names | {name: f"{feed}/{norm}_{i}" for i, name in enumerate(inside)}


def _norms_in_order(norms: LayerNorms, branch: Branch) -> tuple[list[str], list[str]]:
    """Pastel's norms of a layer in the order in which they are applied: the layer's own, and those
    inside its feed-forward module, which also holds the ones around it."""

    def around(residual: str, which: Norms) -> list[str]:
        kinds = {
            "norm_before": which.before,
            "norm_after": which.after,
            "norm_sum": which.after_sum,
        }
        return [f"{residual}/{name}" for name, norm in kinds.items() if norm != "none"]

    outside = around("attention_residual", norms.attention)
    if branch == "decoder":
        outside += around("cross_residual", norms.attention)
    inside = around("mlp_residual", norms.mlp)
    if norms.mlp_mid != "none":
        inside.insert(1, "mlp/mid_norm")
    inside = [name for name in inside if not name.endswith("norm_sum")]
    return [*outside, "mlp_residual/norm_sum"], inside

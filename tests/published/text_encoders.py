"""Writes a tiny T5 with random weights, in the format of transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "vocab_size": 300,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def write_t5(folder: Path, **changes: Any) -> Path:
    """Write config.json and model.safetensors, with the decoder's arrays."""
    settings = {**T5, **changes}
    rng = np.random.default_rng(7)
    dim, hidden, heads = settings["d_model"], settings["d_ff"], settings["num_heads"]
    inner = heads * settings["d_kv"]
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (settings["vocab_size"], dim)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[bias] = (settings["relative_attention_num_buckets"], heads)
    ups = ("wi",) if settings["feed_forward_proj"] == "relu" else ("wi_0", "wi_1")
    for i in range(settings["num_layers"]):
        name = f"encoder.block.{i}.layer"
        shapes |= {f"{name}.0.SelfAttention.{c}.weight": (inner, dim) for c in "qkv"}
        shapes[f"{name}.0.SelfAttention.o.weight"] = (dim, inner)
        shapes |= {f"{name}.{n}.layer_norm.weight": (dim,) for n in (0, 1)}
        shapes |= {f"{name}.1.DenseReluDense.{up}.weight": (hidden, dim) for up in ups}
        shapes[f"{name}.1.DenseReluDense.wo.weight"] = (dim, hidden)
    shapes["encoder.final_layer_norm.weight"] = (dim,)
    arrays = {
        k: (0.3 * rng.standard_normal(s) + (len(s) == 1)).astype(np.float32)
        for k, s in shapes.items()
    }
    arrays |= {"decoder.final_layer_norm.weight": np.ones(8, np.float32)}
    arrays |= {"lm_head.weight": np.ones((2, 2), np.float32)}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(arrays, folder / "model.safetensors")
    return folder
